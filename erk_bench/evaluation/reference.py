"""What images are compared with: the sets that ship inside, or a file of statistics or features."""

from __future__ import annotations

import functools
import hashlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.digits.data import load_digits
from erk_bench.evaluation.detectors import (
    DETECTORS,
    PUBLISHED_DIM,
    detector_key,
    detector_of,
    extract_all,
    reference_name,
)
from erk_bench.evaluation.frechet import FeatureSums
from erk_bench.evaluation.measured import Needs
from erk_bench.evaluation.metrics import CONVERGED, detectors_of, parts_of
from erk_bench.evaluation.real import Real
from erk_bench.evaluation.reference_files import read_contents, read_facts
from erk_bench.evaluation.reference_formats import Contents
from erk_bench.evaluation.reference_images import features_of_images
from erk_bench.spec import MetricsSpec


def digits_reference() -> Tensor:
    """All 1,797 real digits, uint8 [1797, 1, 8, 8]."""
    return load_digits().images


# Published statistics do not say which size of images they are of.
RESOLUTIONS = {"edm2:dataset-refs/img64.pkl": 64, "edm2:dataset-refs/img512.pkl": 512}

_NAMED = re.compile(rf"(?:^|,)({'|'.join(DETECTORS)})=")

# Sets of real images that ship inside, by name.
REFERENCES: dict[str, Callable[[], Tensor]] = {"digits": digits_reference}


@dataclass(frozen=True)
class _Place:
    """Where weights lie. All places are equal: the detectors' keys tell which weights they are."""

    assets: Assets = field(compare=False)


@functools.lru_cache(maxsize=4)
def _shipped(name: str, keys: tuple[tuple[str, str], ...], place: _Place) -> dict[str, Real]:
    """keys: of the detectors, by name."""
    extracted = extract_all(dict(keys), place.assets, torch.device("cpu"), REFERENCES[name]())
    features = {detector: tensors["features"] for detector, tensors in extracted.items()}
    return {detector: Real(FeatureSums.of(values).stats(), values) for detector, values in features.items()}


@functools.lru_cache(maxsize=8)
def _read(path: Path) -> Contents:
    found = read_contents(path)
    if found.unused:
        print(f"note: '{path}' also holds {', '.join(found.unused)}, which is not used", file=sys.stderr)
    return found


def named_files(reference: str) -> dict[str, str]:
    """The addresses in DETECTOR=FILE,DETECTOR=FILE by detector; {"": reference} for one that names none."""
    starts = list(_NAMED.finditer(reference))
    if not starts or starts[0].start():
        return {"": reference}
    ends = [each.start() for each in starts[1:]] + [len(reference)]
    return {each[1]: reference[each.end() : end] for each, end in zip(starts, ends, strict=True)}


def _of_reference(
    reference: str, needs: Mapping[str, set[Needs]], assets: Assets, device: torch.device | str | None
) -> dict[str, Real]:
    """What a reference has for the detectors that are needed, from one file or from one for each of them."""
    found: dict[str, Real] = {}
    for detector, address in named_files(reference).items():
        wanted = {detector: needs[detector]} if detector in needs else {} if detector else needs
        found |= _from_file(address, wanted, assets, device, insisted=bool(detector))
    return found


def _from_file(
    address: str,
    needs: Mapping[str, set[Needs]],
    assets: Assets,
    device: torch.device | str | None,
    *,
    insisted: bool = False,
) -> dict[str, Real]:
    """A file's references, refused where it says that other weights of a wanted detector made them.

    needs: by wanted detector. device: that extracts features of the file's images; None only counts them.
    insisted: the user says that the file is of the one wanted detector.
    """
    path = assets.locate(address)
    made_by = read_facts(path).get("detectors", {})
    called = {reference_name(detector): detector for detector in needs}
    for name, detector in called.items():
        if name in made_by and made_by[name] != detector_key(detector, assets):
            what = "weights" if name == detector else "code, weights or options"
            raise UserError(
                f"'{address}' was made by detector {made_by[name]}, this run has "
                f"{detector_key(detector, assets)}: other {what}; make the reference anew with 'erk-bench "
                "reference'"
            )
    contents = _read(path)
    found = {called.get(name, name): real for name, real in contents.reals.items()}
    unnamed = contents.unnamed
    if insisted and contents.by_name:
        (unnamed,), found = found.values(), {}
    if unnamed is not None and needs:
        found[fitting(address, unnamed, list(needs))] = unnamed
    if contents.images is not None:
        _add_features(path, contents.images[0], found, needs, assets, device)
    return found


def fitting(address: str, real: Real, detectors: Sequence[str]) -> str:
    """The one of some detectors whose features are as wide as those of a file that names none.

    Raises UserError where none or several are.
    """
    width = real.dim
    dims = {name: detector_of(name).dim for name in detectors}
    exact = [name for name, dim in dims.items() if (dim or PUBLISHED_DIM) == width]
    found = exact or [name for name, dim in dims.items() if dim is None]
    if len(found) == 1:
        return found[0]
    if not found:
        known = " and ".join(f"{dim} by '{name}'" for name, dim in dims.items())
        raise UserError(
            f"'{address}' has statistics of {width} dimensions, and features have {known}; give a reference "
            "made with the same detector"
        )
    raise UserError(
        f"'{address}' does not say which detector made it, and {' and '.join(found)} both have {width} "
        f"dimensions; write metrics.reference={found[0]}=FILE,{found[1]}=FILE with a file for each"
    )


def _add_features(
    path: Path,
    count: int,
    found: dict[str, Real],
    needs: Mapping[str, set[Needs]],
    assets: Assets,
    device: torch.device | str | None,
) -> None:
    """Features of the images in a file, where a metric needs them or the file lacks statistics."""
    lacking = [
        name
        for name, wanted in needs.items()
        if "features" in wanted or ("statistics" in wanted and name not in found)
    ]
    if device is None:
        features = {
            name: torch.empty(count, detector_of(name).dim or PUBLISHED_DIM, device="meta")
            for name in lacking
        }
    else:
        features = features_of_images(
            path, {name: detector_key(name, assets) for name in lacking}, assets, device
        )
    for name, values in features.items():
        stats = found[name].stats if name in found else None
        if stats is None and not values.is_meta:
            stats = FeatureSums.of(values).stats()
        found[name] = Real(stats, values)


def wants_reference(spec: MetricsSpec) -> bool:
    """Whether any metric is measured against real images; solver errors are not."""
    return bool(detectors_of(spec.names, distances=False))


def load_real(
    spec: MetricsSpec, assets: Assets, device: torch.device | str | None = None
) -> Mapping[str, Real]:
    """What is known of the real images, by detector, for the metrics of `spec`.

    Features come from spec.real_features where that is set, statistics always from spec.reference. device:
    where features of images inside the reference are extracted, and distances to it computed; None only
    counts them (meta tensors). Raises UserError where a metric would lack what it needs.
    """
    if not wants_reference(spec):
        return {}
    detectors = tuple(detectors_of(spec.names, distances=False))
    needs: dict[str, set[Needs]] = {name: set() for name in detectors}
    asked = [(name, metric) for name in spec.names for metric in parts_of(name)]
    asked = [(name, metric) for name, metric in asked if metric.family.needs != CONVERGED]
    for _, metric in asked:
        needs[metric.detector].add(metric.family.needs)
    if spec.reference in REFERENCES:
        keys = tuple((name, detector_key(name, assets)) for name in detectors)
        found = dict(_shipped(spec.reference, keys, _Place(assets)))
    else:
        found = _of_reference(spec.reference, needs, assets, device)
    of_reference = set(found)
    if spec.real_features is not None:
        for name, real in _of_reference(spec.real_features, needs, assets, device).items():
            # Never its statistics: it is another set of images.
            found[name] = Real(found[name].stats if name in found else None, real.features)
    for name, metric in asked:
        need = metric.family.needs
        real_set = found.get(metric.detector)
        has_any = metric.detector in (of_reference if need == "statistics" else found)
        if need != "nothing" and not has_any:
            given = spec.reference if need == "statistics" else spec.real_features or spec.reference
            raise UserError(
                f"metric '{name}' needs {need} of real images by detector '{metric.detector}', but "
                f"'{given}' has them for {', '.join(sorted(of_reference))} only; make them with 'erk-bench "
                f"reference', or leave '{name}' out of metrics.names"
            )
        if need == "features" and real_set is not None and real_set.features is None:
            raise UserError(
                f"metric '{name}' needs features of real images, and "
                f"'{spec.real_features or spec.reference}' holds statistics only; make them with 'erk-bench "
                f"reference keep_features=true' and set metrics.real_features=FILE, or leave '{name}' out "
                "of metrics.names"
            )
    for name, real in found.items():
        wanted = detector_of(name).dim if name in detectors else None
        width = None if real.stats is None else real.dim
        if None not in (wanted, width) and wanted != width:
            raise UserError(
                f"'{spec.reference}' has statistics of {width} dimensions for '{name}', whose features have "
                f"{wanted}; give a reference made with the same detector"
            )
    where = None if device is None else torch.device(device)
    return {name: replace(real, device=where) for name, real in found.items()}


def check_resolution(
    spec: MetricsSpec, assets: Assets, resolution: int, maker: str = "the model makes"
) -> None:
    """Refuse a reference made from images of another size, where it says so. maker: who has the images."""
    if not wants_reference(spec):
        return
    for address in (spec.reference, spec.real_features):
        if address is None or address in REFERENCES:
            continue
        for file in named_files(address).values():
            found = RESOLUTIONS.get(file) or _resolution(assets.locate(file))
            if found is not None and found != resolution:
                raise UserError(
                    f"'{file}' was made from images of {found}x{found} pixels, and {maker} "
                    f"{resolution}x{resolution}; give the reference of its own resolution"
                )


def _resolution(path: Path) -> int | None:
    """Side of the images that a file was made from, where it tells."""
    found = read_facts(path).get("resolution")
    images = _read(path).images
    return images[1] if found is None and images is not None else found


def reference_facts(spec: MetricsSpec, assets: Assets) -> dict[str, str]:
    """Name and sha256 of the reference (of the pixels, for a shipped one) and of the real features.

    Empty where no metric needs real images.
    """
    if not wants_reference(spec):
        return {}
    if spec.reference in REFERENCES:
        facts = {"name": spec.reference, "sha256": _pixels_sha256(spec.reference)}
    else:
        one = "" in named_files(spec.reference) and spec.reference.endswith(".safetensors")
        of_set = read_facts(assets.locate(spec.reference)) if one else {}
        facts = {
            "name": of_set.get("source", spec.reference) if "set_sha256" in of_set else spec.reference,
            "sha256": of_set.get("set_sha256") or _files_sha256(spec.reference, assets),
        }
    if spec.real_features is not None:
        facts |= {
            "features": spec.real_features,
            "features_sha256": _files_sha256(spec.real_features, assets),
        }
    return facts


def _files_sha256(reference: str, assets: Assets) -> str:
    """sha256 of the file, or of the detectors and hashes of several."""
    hashes = {name: assets.sha256(address) for name, address in named_files(reference).items()}
    if set(hashes) == {""}:
        return hashes[""]
    return hashlib.sha256("".join(f"{name} {found}\n" for name, found in hashes.items()).encode()).hexdigest()


@functools.cache
def _pixels_sha256(name: str) -> str:
    return hashlib.sha256(REFERENCES[name]().numpy().tobytes()).hexdigest()
