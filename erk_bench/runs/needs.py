"""What a run needs before its first image: files that are here, and settings that fit together."""

from __future__ import annotations

from erk_bench.base.assets import Assets
from erk_bench.base.extras import need
from erk_bench.evaluation.detectors import detector_of
from erk_bench.evaluation.metrics import check_count, check_real, detectors_of
from erk_bench.evaluation.reference import (
    REFERENCES,
    check_resolution,
    load_real,
    named_files,
    wants_reference,
)
from erk_bench.networks.decoders import DECODERS
from erk_bench.runs.checks import check_images, check_networks, check_set
from erk_bench.runs.converged import check_converged
from erk_bench.runs.device import check_draws
from erk_bench.spec import MetricsSpec, RunSpec, Spec


def addresses_of(spec: Spec, *, features: bool = True) -> list[str]:
    """Every file that a run (and its evaluation, if asked) needs, by address (see storage/assets)."""
    found = [item.path for item in spec.weights] if isinstance(spec, RunSpec) else []
    if not features:
        return found
    files = [detector_of(name).weights for name in detectors_of(spec.metrics.names)]
    references = (spec.metrics.reference, spec.metrics.real_features)
    for reference in references if wants_reference(spec.metrics) else ():
        if reference is not None and reference not in REFERENCES:
            files += named_files(reference).values()
    found += [file for file in files if file is not None]
    return list(dict.fromkeys(found))


def check_enough(spec: Spec) -> None:
    """Refuse too few seeds for the metrics, or draws of another device, before any image is made."""
    if isinstance(spec, RunSpec):
        check_count(spec.metrics, len(spec.seed_range))
        check_draws(spec)
    else:
        check_count(spec.metrics, spec.num_images, "more images, at least {}")


def check_packages(spec: Spec, *, features: bool = True) -> None:
    """Refuse, before anything is fetched, what is built with a package that is not installed."""
    if isinstance(spec, RunSpec):
        decoder = DECODERS.get(spec.model.decoder)
        if decoder is not None and decoder.package is not None and spec.model.decoder_path is None:
            need(decoder.package, f"decoder '{spec.model.decoder}'")
        for network in spec.networks:
            if network.config is not None:
                need("diffusers", f"model '{network.path}'")
    if features:
        check_detectors(spec.metrics)


def check_detectors(metrics: MetricsSpec) -> None:
    """Refuse detectors that are built with a package that is not installed."""
    for name in detectors_of(metrics.names):
        package = detector_of(name).package
        if package is not None:
            need(package, f"detector '{name}'")


def check_reference(spec: Spec, assets: Assets) -> None:
    """Refuse networks, metrics or a reference that do not fit together before any image is made."""
    if isinstance(spec, RunSpec):
        check_networks(spec, assets)
        check_converged(spec, imported=True)
        resolution, maker = check_images(spec, assets), "the model makes"
    else:
        resolution, maker = check_set(spec), f"'{spec.images}' has"
    check_real(spec.metrics, len(spec.seed_range), load_real(spec.metrics, assets))
    check_resolution(spec.metrics, assets, resolution, maker)


def fetch_detectors(metrics: MetricsSpec, assets: Assets) -> None:
    """Fetch what is missing of the weights of the metrics' detectors."""
    check_detectors(metrics)
    for name in detectors_of(metrics.names):
        weights = detector_of(name).weights
        if weights is not None:
            assets.locate(weights)


def fetch(spec: Spec, assets: Assets, *, features: bool) -> None:
    """Fetch what is missing of a run's files: those for sampling, and if asked those for measuring.

    Under a launcher every rank calls this: one fetches, the others wait.
    """
    check_packages(spec, features=features)
    for address in addresses_of(spec, features=features):
        assets.locate(address)
