"""What a run needs before its first image: files that are here, and settings that fit together."""

from __future__ import annotations

from erk_bench.base.assets import Assets
from erk_bench.evaluation.detectors import detector_of
from erk_bench.evaluation.metrics import check_count, check_real, detectors_of
from erk_bench.evaluation.reference import REFERENCES, check_resolution, load_real
from erk_bench.runs.checks import check_images, check_networks
from erk_bench.runs.device import check_draws
from erk_bench.spec import RunSpec


def addresses_of(spec: RunSpec, *, features: bool = True) -> list[str]:
    """Every file that a run (and its evaluation, if asked) needs, by address (see storage/assets)."""
    found = [item.path for item in spec.weights]
    if not features:
        return found
    files = [detector_of(name).weights for name in detectors_of(spec.metrics.names)]
    files += [spec.metrics.reference, spec.metrics.real_features]
    found += [file for file in files if file is not None and file not in REFERENCES]
    return list(dict.fromkeys(found))


def check_enough(spec: RunSpec) -> None:
    """Refuse too few seeds for the metrics, or draws of another device, before any image is made."""
    check_count(spec.metrics, len(spec.seed_range))
    check_draws(spec)


def check_reference(spec: RunSpec, assets: Assets) -> None:
    """Refuse networks, metrics or a reference that do not fit together before any image is made."""
    check_networks(spec, assets)
    resolution = check_images(spec, assets)
    check_real(spec.metrics, len(spec.seed_range), load_real(spec.metrics, assets))
    check_resolution(spec.metrics, assets, resolution)


def fetch(spec: RunSpec, assets: Assets, *, features: bool) -> None:
    """Fetch what is missing of a run's files: those for sampling, and if asked those for measuring.

    Under a launcher every rank calls this: one fetches, the others wait.
    """
    for address in addresses_of(spec, features=features):
        assets.locate(address)
