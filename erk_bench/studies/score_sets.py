"""Sets of images that something else made, measured against statistics or against another set."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from erk_bench.base.errors import UserError
from erk_bench.evaluation.detectors import reference_name
from erk_bench.evaluation.frechet import FeatureSums
from erk_bench.evaluation.metrics import check_count, check_real_count
from erk_bench.evaluation.reference import REFERENCES
from erk_bench.evaluation.reference_files import Real, write_reference
from erk_bench.reporting.trackers.tracker import Tracker
from erk_bench.runs import launch
from erk_bench.runs.blocks import blocks_of
from erk_bench.runs.device import assets_of
from erk_bench.runs.finish_block import detector_keys
from erk_bench.runs.checks import check_set
from erk_bench.runs.needs import fetch_detectors
from erk_bench.runs.records import Record
from erk_bench.runs.set_block import describe, opened
from erk_bench.runs.store import RunStore
from erk_bench.spec import MetricsSpec, SetSpec
from erk_bench.studies.records import compute_records, prepare

NO_IMAGES = (".safetensors", ".pkl", ".pt", ".pth")  # endings of files of statistics


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How sets are read and measured; the fields are those of SetSpec."""

    metrics: MetricsSpec
    resolution: int | None = None
    skip_unreadable: bool = False
    block_size: int = 100
    device: str = "auto"
    workers: int | None = None
    offline: bool = False
    out: str = "results/runs"

    def spec(self, place: str, name: str = "") -> SetSpec:
        """The spec of the set at `place`, whose files are read once to know their content."""
        count = len(opened(place, self.out))
        check_count(self.metrics, count, "more images, at least {}")
        known = describe(place, self.out, self.resolution)
        fields = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        called = name or Path(place.rstrip("/")).name or place
        return SetSpec(name=called, images=place, num_images=count, **known, **fields)


def holds_images(reference: str) -> bool:
    """Whether a reference is a set of images, not the name, address or file of statistics."""
    path = Path(reference).expanduser()
    if path.is_dir() or any(mark in reference for mark in "*?[{"):
        return True
    if reference in REFERENCES or not path.suffix or ":" in reference or path.suffix in NO_IMAGES:
        return False
    if path.suffix != ".npz":
        return True
    with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as arrays:
        return "mu.npy" not in arrays.namelist() and "arr_0.npy" in arrays.namelist()
    return False


def score_sets(
    specs: Sequence[SetSpec], *, tracker: Tracker, real: SetSpec | None = None
) -> list[Record] | None:
    """The records of sets, in their order; None on a rank that shows nothing.

    real: the set that they are compared with, in place of the reference of their metrics; its features are
    computed once and kept. Raises UserError, before a detector runs where it can be known, for metrics and a
    reference that do not fit the sets, and for images that cannot be read.
    """
    if real is not None:
        fetch_detectors(real, assets_of(real))  # their hashes name the file
        path = reference_file(real)
        specs = [measured_against(spec, str(path)) for spec in specs]
        if not path.is_file() and not _make_reference([*specs, measured_against(real, str(path))], path):
            return None
    prepare(specs)
    title = specs[0].name if len(specs) == 1 else f"{len(specs)} sets"
    records = compute_records([[spec] for spec in specs], title=title, tracker=tracker)
    return None if records is None else [records[spec.run_id] for spec in specs]


def measured_against(spec: SetSpec, reference: str) -> SetSpec:
    return dataclasses.replace(spec, metrics=dataclasses.replace(spec.metrics, reference=reference))


def reference_file(real: SetSpec) -> Path:
    """Where the features of a set are kept as a reference, for the detectors of its metrics."""
    keys = sorted(detector_keys(real, assets_of(real)).values())
    name = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:10]
    return RunStore.folder_of(real) / f"reference-{name}.safetensors"


def _make_reference(specs: Sequence[SetSpec], path: Path) -> bool:
    """Features of all sets in one launch, and a reference of the last one; False on a rank without results."""
    *_, real = specs
    for spec in specs:
        if spec.num_images < 2:
            raise UserError(f"'{spec.images}' has one image, which gives no covariance; give more")
        check_set(spec)
    check_real_count(real.metrics, min(spec.num_images for spec in specs[:-1]), real.num_images)
    title = f"features of {len(specs)} sets"
    if not launch.compute([[spec] for spec in specs], features=True, title=title):
        return False
    store, reals = RunStore.open(real), {}
    keys = detector_keys(real, assets_of(real))
    for name, key in keys.items():
        parts = [store.read_features(key, block)[0] for block in blocks_of(real.seed_range, real.block_size)]
        features = torch.cat([part["features"] for part in parts])
        reals[reference_name(name)] = Real(FeatureSums.of(features).stats(), features)
    facts = {
        "detectors": {reference_name(name): key for name, key in keys.items()},
        "num_images": len(features),
        "resolution": real.height if real.height == real.width else None,
        "set_sha256": real.sha256,
        "source": real.name,
    }
    write_reference(path, reals, facts)
    return True
