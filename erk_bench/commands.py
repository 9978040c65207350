"""What each command does, once its settings have become specs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table as RichTable

import erk_bench
from erk_bench.base.console import wide_console
from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.fields import build
from erk_bench.digits.train import DenoiserRecipe, FeaturesRecipe, Recipe, train_all
from erk_bench.evaluation.metrics import METRICS
from erk_bench.networks import checkpoint
from erk_bench.reporting import table_views
from erk_bench.reporting.trackers.tracker import Tracker
from erk_bench.runs import launch
from erk_bench.runs.blocks import blocks_of
from erk_bench.runs.checks import check_networks
from erk_bench.runs.export import export as export_images
from erk_bench.runs.export import finish_samples
from erk_bench.runs.generate import unfinished
from erk_bench.runs.needs import fetch
from erk_bench.runs.records import Record
from erk_bench.runs.score import record_path, score
from erk_bench.runs.store import RunStore
from erk_bench.spec import RunSpec
from erk_bench.studies.records import compute_records, prepare

MANY = 10_000  # images whose metrics take minutes


def version() -> int:
    print(f"erk-bench {erk_bench.__version__}")
    return 0


def run(spec: RunSpec, tracker: Tracker) -> int:
    """Generate, extract and score one run; a finished one is only shown."""
    prepare([spec])
    records = compute_records([[spec]], title=spec.run_id, tracker=tracker)
    if records is not None:
        tracker.record(records[spec.run_id], RunStore.folder_of(spec))
        _show_record(records[spec.run_id], record_path(spec))
        _show_samples(spec)
    return 0


def _scored(spec: RunSpec) -> Record:
    if len(spec.seed_range) >= MANY:
        print(f"scoring {len(spec.seed_range):,} images: {', '.join(spec.metrics.names)}", file=sys.stderr)
    return score(spec)


def _show_samples(spec: RunSpec) -> None:
    path = finish_samples(spec)
    if path is None or not path.exists():
        return
    print(f"images: {path}")
    blocks = blocks_of(spec.seed_range, spec.block_size)
    extra = len(blocks) * spec.block_size - len(spec.seed_range)
    if spec.samples == "png" and extra:
        print(f"it also has {extra} images of seeds outside {spec.seeds}; 'erk-bench export' leaves them out")


def generate(spec: RunSpec) -> int:
    """Write the images of one run."""
    if spec.samples == "none":
        raise UserError(
            "samples is 'none', so generate would leave nothing; use samples=blocks, png or npz, or 'run'"
        )
    fetch(spec, features=False)
    check_networks(spec)
    if launch.compute([[spec]], features=False, title=spec.run_id):
        print(f"{len(spec.seed_range)} images (seeds {spec.seeds}) are in {finish_samples(spec)}")
        print("next: 'erk-bench evaluate' or 'erk-bench export' with the same settings")
    return 0


def evaluate(spec: RunSpec) -> int:
    """Score the images that are there; never samples."""
    prepare([spec])
    store = RunStore.open(spec)
    lacking = [block for block in unfinished(spec, features=True) if not store.has_images(block)]
    if lacking:
        total = len(blocks_of(spec.seed_range, spec.block_size))
        raise UserError(
            f"{len(lacking)} of {total} blocks are missing (first: {lacking[0]}) in {store.folder}; run "
            "'erk-bench generate' with the same settings first"
        )
    if launch.compute([[spec]], features=True, title=f"features of {spec.run_id}"):
        _show_record(_scored(spec), record_path(spec))
    return 0


def _show_record(record: Record, path: Path) -> None:
    table = RichTable(title=f"{record.run_id}, {record.num_images} images", show_header=True)
    table.add_column("metric")
    table.add_column("value ± standard error", justify="right")
    for name, metric in record.metrics.items():
        title = METRICS[name].title if name in METRICS else name
        table.add_row(title, table_views.rounded((metric.value, metric.standard_error)))
    guide = f" + {record.nfe_guide} of the guiding network" if record.nfe_guide else ""
    table.add_row("NFE per image", f"{record.nfe}{guide}")
    if record.seconds_per_1000 is not None:
        table.add_row("seconds per 1000 images and worker", f"{record.seconds_per_1000:.1f}")
    wide_console().print(table)
    print(f"record: {path}")


def export(spec: RunSpec, form: str, to: str) -> int:
    """Write a run's images for other tools."""
    count, path = export_images(spec, form, to)
    print(f"{count} images: {path}")
    return 0


def convert(source: Path, target: Path) -> int:
    """Turn a checkpoint into our safetensors format."""
    made = checkpoint.convert(source, target)
    count = sum(tensor.numel() for tensor in made.weights.values())
    print(f"{target}: {made.class_name}, {count:,} values, source sha256 {made.source_sha256}")
    decoder = "grey" if made.init.get("img_channels") == 1 else "rgb"
    print(f"use it: erk-bench generate model.name=mine model.weights.path={target} model.decoder={decoder}")
    return 0


def train_digits(content: Mapping[str, Any]) -> int:
    """Train the named digits networks and write them with their training records."""
    known = ("denoiser", "unconditional", "weaker", "features")
    shared = {
        key: value for key, value in content.items() if key not in (*known, "out", "networks", "workers")
    }
    recipes: dict[str, Recipe] = {}
    if not isinstance(content["networks"], list):
        raise UserError(f"networks is {content['networks']!r}; write networks=[denoiser,weaker]")
    for name in content["networks"]:
        if name not in known:
            raise unknown_name("network", name, known)
        if not isinstance(content[name], Mapping):
            raise UserError(f"{name} is {content[name]!r}; set its fields, such as {name}.seed=5")
        if name == "features":
            recipes[name] = build(FeaturesRecipe, content[name], name)
        else:
            recipes[name] = build(DenoiserRecipe, {**shared, **content[name]}, name)
    if not recipes:
        raise UserError(f"networks is empty; name some of: {', '.join(known)}")
    workers = content["workers"] or os.cpu_count() or 1
    if not isinstance(workers, int) or workers < 1:
        raise UserError(f"workers is {workers!r}; it must be 1 or more, or null for one per CPU core")
    out = Path(content["out"])
    for line in train_all(recipes, out, min(workers, len(recipes))):
        print(line)
    print(f"networks and training records: {out}")
    return 0
