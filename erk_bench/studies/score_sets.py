"""Sets of images that something else made, measured against statistics or against another set."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.progress import progress_bar
from erk_bench.base.yaml_files import is_line
from erk_bench.evaluation.detectors import reference_name
from erk_bench.evaluation.frechet import FeatureSums
from erk_bench.evaluation.image_set import ImageSet
from erk_bench.evaluation.metrics import METRICS, check_count, check_real_count
from erk_bench.evaluation.protocols import followed
from erk_bench.evaluation.real_images import open_images
from erk_bench.evaluation.reference import REFERENCES
from erk_bench.evaluation.reference_files import Real, write_reference
from erk_bench.reporting.trackers.tracker import Tracker
from erk_bench.runs import launch
from erk_bench.runs.checks import check_measuring, check_out, check_set
from erk_bench.runs.converged import check_no_set
from erk_bench.runs.device import assets_of
from erk_bench.runs.finish_block import detector_keys
from erk_bench.runs.needs import fetch_detectors
from erk_bench.runs.records import Record
from erk_bench.runs.score import kept_features
from erk_bench.runs.set_block import describe, open_for
from erk_bench.runs.store import RunStore
from erk_bench.spec import MetricsSpec, RunSpec, SetSpec
from erk_bench.studies.records import compute_records, prepare

DEFAULT_BLOCK = 100
DEFAULT_METRICS = {"digits": "fd_digits"}  # by reference; of others FID
NO_IMAGES = (".safetensors", ".pkl", ".pt", ".pth")  # endings of files of statistics


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How sets are read and measured; the fields are those of SetSpec.

    block_size: None takes that of what is kept of the set, else DEFAULT_BLOCK.
    """

    metrics: MetricsSpec
    resolution: int | None = None
    skip_unreadable: bool = False
    block_size: int | None = None
    device: str = "auto"
    workers: int | None = None
    offline: bool = False
    out: str = "results/runs"

    def spec(self, place: str, images: ImageSet, name: str = "") -> SetSpec:
        """The spec of the images at `place`, which are read once to know their content."""
        known = describe(images, skip_unreadable=self.skip_unreadable)
        fields = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        fields["block_size"] = DEFAULT_BLOCK if self.block_size is None else self.block_size
        spec = SetSpec(name=name or set_name(place), images=place, num_images=len(images), **known, **fields)
        kept = RunStore.kept_block_size(spec) if self.block_size is None else None
        return dataclasses.replace(spec, block_size=kept or spec.block_size)


def measuring(
    reference: str,
    metrics: Sequence[str] = (),
    *,
    protocol: str = "",
    real_features: str | None = None,
    num_groups: int = 50,
    kid_subsets: int = 100,
    kid_subset_size: int = 1000,
    **reading: Any,
) -> Measuring:
    """How sets are measured against a reference. reading: the other fields of Measuring.

    metrics: FID unless given, and FD-digits for the shipped digits. protocol: key of PROTOCOLS, which names
    the metrics and fixes their settings; `metrics` may choose some of them. Raises UserError for unknown
    ones.
    """
    known = [item.name for item in dataclasses.fields(Measuring) if item.name != "metrics"]
    for setting in reading:
        if setting not in known:
            others = ("name", "protocol", "real_features", "num_groups", "kid_subsets", "kid_subset_size")
            raise unknown_name("setting of score", setting, [*others, *known])
    names = [METRICS[name].name for name in metrics]
    settings = {"kid_subsets": kid_subsets, "kid_subset_size": kid_subset_size}
    if protocol:
        names, settings = followed(protocol, names, settings)
    names = names or [DEFAULT_METRICS.get(reference, "fid")]
    found = MetricsSpec(
        names=tuple(dict.fromkeys(names)),
        reference=reference,
        real_features=real_features,
        num_groups=num_groups,
        protocol=protocol,
        kid_subsets=settings["kid_subsets"],
        kid_subset_size=settings["kid_subset_size"],
    )
    check_no_set(found)
    return Measuring(metrics=found, **reading)


def score(
    images: str | Path,
    reference: str | Path,
    metrics: Sequence[str] = (),
    *,
    name: str = "",
    workers: int | None = 1,
    **settings: Any,
) -> Record:
    """Metrics of images that anything made, with standard errors (the `erk-bench score` command).

    images: a folder, an archive or an array, see `evaluation.image_set.open_set`. reference: statistics, a
    name of REFERENCES, or another set of images. metrics: names or FAMILY@DETECTOR; FID unless given. name:
    what the set is called. workers: processes; more than one need a main module that may be imported again.
    settings: the options of `erk-bench score` (resolution, skip_unreadable, num_groups, device, out, ...).
    Features and the record are kept in `out` and found again. Raises UserError as `score_sets` does.
    """
    how = measuring(str(reference), metrics, workers=workers, **settings)
    specs, real = set_specs([str(images)], how, [name])
    records = score_sets(specs, real=real, tracker=Tracker())
    assert records is not None  # only ranks of a launcher get none
    return records[0]


def set_name(place: str) -> str:
    """What the set at a place is called, unless the user says otherwise: the last part."""
    return Path(place.rstrip("/")).name or place


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


def row_spec(place: str, run: RunSpec, name: str = "") -> SetSpec:
    """The spec of the set at `place`, read and measured as a run is."""
    how = Measuring(
        metrics=run.metrics,
        device=run.device,
        workers=run.workers,
        offline=run.offline,
        out=run.out,
    )
    return set_specs([place], how, [name])[0][0]


def set_specs(
    places: Sequence[str], how: Measuring, names: Sequence[str] = ()
) -> tuple[list[SetSpec], SetSpec | None]:
    """The specs of the sets at `places`, and of the reference where that is a set, too.

    names: what the sets are called; the last part of their place unless given. Raises UserError, before any
    image is read, for sets that are empty or too small for the metrics, and for an unknown reference.
    """
    reference = how.metrics.reference
    check_out(how.out)
    for name in names:
        if not is_line(name):
            raise UserError(f"name is {name[:80]!r}; expected a text of one line")
    real = open_images(reference) if holds_images(reference) else None
    if real is None:
        if reference not in REFERENCES and not Path(reference).suffix:
            known = [*REFERENCES, "a file of statistics", "a folder of images that is there"]
            raise unknown_name("reference", reference, known)
        check_measuring(how.metrics)
    opened = [open_images(place) for place in places]
    for images in opened:
        check_count(how.metrics, len(images), "more images, at least {}")
        if real is not None:
            check_real_count(how.metrics, len(images), len(real))
    fetch_detectors(how.metrics, Assets.from_environment(how.offline))
    named = [*zip(places, names or [""] * len(places), strict=True)]
    total = sum(map(len, opened)) + (0 if real is None else len(real))
    with progress_bar("reading files", total, total, shown=launch.reports()) as bar:

        def spec(place: str, name: str = "") -> SetSpec:
            found = open_for(place, how.out, how.resolution, lambda count: bar(count, count))
            return how.spec(place, found, name)

        return [spec(place, name) for place, name in named], None if real is None else spec(reference)


def score_sets(
    specs: Sequence[SetSpec], *, tracker: Tracker, real: SetSpec | None = None
) -> list[Record] | None:
    """The records of sets, in their order; None on a rank that shows nothing.

    real: the set that they are compared with, in place of the reference of their metrics; its features are
    computed once and kept. Raises UserError, before a detector runs where it can be known, for metrics and a
    reference that do not fit the sets, and for images that cannot be read.
    """
    if real is not None:
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
    """Features of all sets in one launch, and a reference of the last; False on a rank without results."""
    *_, real = specs
    for spec in specs:
        check_set(spec)
    title = f"features of {len(specs)} sets"
    if not launch.compute([[spec] for spec in specs], features=True, title=title):
        return False
    keys = detector_keys(real, assets_of(real))
    kept = kept_features(real, keys)
    reals = {
        reference_name(name): Real(FeatureSums.of(each.features).stats(), each.features)
        for name, each in kept.extracted.items()
    }
    facts = {
        "detectors": {reference_name(name): key for name, key in keys.items()},
        "num_images": real.num_images - len(kept.left_out),
        "resolution": real.height if real.height == real.width else None,
        "set_sha256": real.sha256,
        "source": real.name,
    }
    write_reference(path, reals, facts)
    return True
