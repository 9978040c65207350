"""What images are compared with: the sets that ship inside, or a file of statistics or features."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.digits.data import load_digits
from erk_bench.evaluation.detectors import detector_key, detector_of, load_detector, reference_name
from erk_bench.evaluation.frechet import FeatureSums
from erk_bench.evaluation.metrics import detectors_of, parts_of
from erk_bench.evaluation.reference_files import Real, read_facts, read_reference
from erk_bench.spec import MetricsSpec


def digits_reference() -> Tensor:
    """All 1,797 real digits, uint8 [1797, 1, 8, 8]."""
    return load_digits().images


# Published statistics do not say which size of images they are of.
RESOLUTIONS = {"edm2:dataset-refs/img64.pkl": 64, "edm2:dataset-refs/img512.pkl": 512}

# Sets of real images that ship inside, by name.
REFERENCES: dict[str, Callable[[], Tensor]] = {"digits": digits_reference}


@functools.lru_cache(maxsize=4)
def _shipped(name: str, keys: tuple[tuple[str, str], ...], assets: Assets) -> dict[str, Real]:
    """keys: of the detectors, by name."""
    images = REFERENCES[name]()
    found = {}
    for detector, key in keys:
        features = load_detector(detector, assets, torch.device("cpu"), key)(images)["features"]
        found[detector] = Real(FeatureSums.of(features).stats(), features)
    return found


@functools.lru_cache(maxsize=4)
def _read(path: Path) -> dict[str, Real]:
    return read_reference(path)


def _from_file(address: str, detectors: tuple[str, ...], assets: Assets) -> dict[str, Real]:
    """A file's references, refused where it says that other weights of a wanted detector made them."""
    path = assets.locate(address)
    made_by = read_facts(path).get("detectors", {})
    called = {reference_name(detector): detector for detector in detectors}
    for name, detector in called.items():
        if name in made_by and made_by[name] != detector_key(detector, assets):
            what = "weights" if name == detector else "code, weights or options"
            raise UserError(
                f"'{address}' was made by detector {made_by[name]}, this run has "
                f"{detector_key(detector, assets)}: other {what}; make the reference anew with 'erk-bench "
                "reference'"
            )
    return {called.get(name, name): real for name, real in _read(path).items()}


def load_real(spec: MetricsSpec, assets: Assets) -> Mapping[str, Real]:
    """What is known of the real images, by detector, for the metrics of `spec`.

    Features come from spec.real_features where that is set, statistics always from spec.reference.
    Raises UserError where a metric would lack what it needs.
    """
    detectors = tuple(detectors_of(spec.names))
    if spec.reference in REFERENCES:
        keys = tuple((name, detector_key(name, assets)) for name in detectors)
        found = dict(_shipped(spec.reference, keys, assets))
    else:
        found = dict(_from_file(spec.reference, detectors, assets))
    of_reference = set(found)
    if spec.real_features is not None:
        for name, real in _from_file(spec.real_features, detectors, assets).items():
            # Never its statistics: it is another set of images.
            found[name] = Real(found[name].stats if name in found else None, real.features)
    for name, metric in ((key, metric) for key in spec.names for metric in parts_of(key)):
        needs = metric.family.needs
        real_set = found.get(metric.detector)
        has_any = metric.detector in (of_reference if needs == "statistics" else found)
        if needs != "nothing" and not has_any:
            given = spec.reference if needs == "statistics" else spec.real_features or spec.reference
            raise UserError(
                f"metric '{name}' needs {needs} of real images by detector '{metric.detector}', but "
                f"'{given}' has them for {', '.join(sorted(of_reference))} only; make them with 'erk-bench "
                f"reference', or leave '{name}' out of metrics.names"
            )
        if needs == "features" and real_set is not None and real_set.features is None:
            raise UserError(
                f"metric '{name}' needs features of real images, and "
                f"'{spec.real_features or spec.reference}' holds statistics only; make them with 'erk-bench "
                f"reference keep_features=true' and set metrics.real_features=FILE, or leave '{name}' out "
                "of metrics.names"
            )
    for name, real in found.items():
        wanted = detector_of(name).dim if name in detectors else None
        width = len(real.stats.mean) if real.stats is not None else None
        if None not in (wanted, width) and wanted != width:
            raise UserError(
                f"'{spec.reference}' has statistics of {width} dimensions for '{name}', whose features have "
                f"{wanted}; give a reference made with the same detector"
            )
    return found


def check_resolution(
    spec: MetricsSpec, assets: Assets, resolution: int, maker: str = "the model makes"
) -> None:
    """Refuse a reference made from images of another size, where it says so. maker: who has the images."""
    for address in (spec.reference, spec.real_features):
        if address is None or address in REFERENCES:
            continue
        found = RESOLUTIONS.get(address) or read_facts(assets.locate(address)).get("resolution")
        if found is not None and found != resolution:
            raise UserError(
                f"'{address}' was made from images of {found}x{found} pixels, and {maker} "
                f"{resolution}x{resolution}; give the reference of its own resolution"
            )


def reference_facts(spec: MetricsSpec, assets: Assets) -> dict[str, str]:
    """Name and sha256 of the reference (of the pixels, for a shipped one) and of the real features."""
    if spec.reference in REFERENCES:
        facts = {"name": spec.reference, "sha256": _pixels_sha256(spec.reference)}
    else:
        of_set = read_facts(assets.locate(spec.reference)) if spec.reference.endswith(".safetensors") else {}
        facts = {
            "name": of_set.get("source", spec.reference) if "set_sha256" in of_set else spec.reference,
            "sha256": of_set.get("set_sha256") or assets.sha256(spec.reference),
        }
    if spec.real_features is not None:
        facts |= {"features": spec.real_features, "features_sha256": assets.sha256(spec.real_features)}
    return facts


@functools.cache
def _pixels_sha256(name: str) -> str:
    return hashlib.sha256(REFERENCES[name]().numpy().tobytes()).hexdigest()
