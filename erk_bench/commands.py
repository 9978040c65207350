"""What each command does, once its settings have become specs."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table as RichTable

import erk_bench
from erk_bench import launch, planning, stages
from erk_bench import tables as table_building
from erk_bench.config_files import config_folder
from erk_bench.digits.train import DenoiserRecipe, FeaturesRecipe, Recipe, train_all
from erk_bench.errors import UserError, unknown_name
from erk_bench.evaluation.metrics import METRICS
from erk_bench.files import write_atomic
from erk_bench.networks import checkpoint
from erk_bench.presets import preset_files
from erk_bench.reporting import figures, views
from erk_bench.reporting.records import PACKAGES, Record, environment, write_record
from erk_bench.spec import RunSpec, build
from erk_bench.storage.blocks import blocks_of
from erk_bench.storage.export import export as export_images
from erk_bench.storage.export import images_of
from erk_bench.storage.store import RunStore

SHEET_COLUMNS = 14  # seeds shown on a sample sheet


def _console() -> Console:
    """A console as wide as its terminal; wide enough for a table where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=170)


def version() -> int:
    print(f"erk-bench {erk_bench.__version__}")
    return 0


def run(spec: RunSpec) -> int:
    """Generate, extract and score one run; a finished one is only shown."""
    stages.check_enough(spec)
    record = stages.finished_record(spec)
    if record is None and launch.compute([[spec]], features=True, title=spec.run_id):
        record = stages.score(spec)
    if record is not None and launch.reports():
        _show_record(record, stages.record_path(spec))
    return 0


def generate(spec: RunSpec) -> int:
    """Write the images of one run."""
    if launch.compute([[spec]], features=False, title=spec.run_id):
        folder = RunStore.folder_of(spec)
        print(f"{len(spec.seed_range)} images (seeds {spec.seeds}) are in {folder}/images")
        print("next: 'erk-bench evaluate' or 'erk-bench export' with the same settings")
    return 0


def evaluate(spec: RunSpec) -> int:
    """Score the images that are there; never samples."""
    stages.check_enough(spec)
    store = RunStore.open(spec)
    lacking = [block for block in stages.unfinished(spec, features=True) if not store.has_images(block)]
    if lacking:
        total = len(blocks_of(spec.seed_range, spec.block_size))
        raise UserError(
            f"{len(lacking)} of {total} blocks are missing (first: {lacking[0]}) in {store.folder}; run "
            "'erk-bench generate' with the same settings first"
        )
    if launch.compute([[spec]], features=True, title=f"features of {spec.run_id}"):
        _show_record(stages.score(spec), stages.record_path(spec))
    return 0


def _show_record(record: Record, path: Path) -> None:
    table = RichTable(title=f"{record.run_id}, {record.num_images} images", show_header=True)
    table.add_column("metric")
    table.add_column("value ± standard error", justify="right")
    for name, metric in record.metrics.items():
        title = METRICS[name].title if name in METRICS else name
        table.add_row(title, views.rounded((metric.value, metric.standard_error)))
    guide = f" + {record.nfe_guide} of the guiding network" if record.nfe_guide else ""
    table.add_row("NFE per image", f"{record.nfe}{guide}")
    if record.seconds_per_1000 is not None:
        table.add_row("seconds per 1000 images and worker", f"{record.seconds_per_1000:.1f}")
    _console().print(table)
    print(f"record: {path}")


def table(
    content: Mapping[str, Any],
    specs: Sequence[RunSpec],
    options: Mapping[str, str],
    *,
    as_published: bool,
) -> int:
    """Compute what is missing of a table, show it, write its views; status 1 if a row is off.

    as_published: the rows are the table's own, so that a row without a reference record is off too.
    """
    specs = list({spec.run_id: spec for spec in specs}.values())  # settings may make rows equal
    for spec in specs:
        stages.check_enough(spec)
    reference = config_folder().parent / content["reference"]
    again = bool(options["from"]) and Path(options["from"]).resolve() == reference.resolve()
    references = {} if again else table_building.read_folder(reference)
    to = Path(options["to"] or Path(specs[0].out) / "tables").expanduser()
    if options["from"]:
        found = table_building.read_folder(Path(options["from"]))
        lacking = [spec.run_id for spec in specs if spec.run_id not in found]
        if lacking:
            raise UserError(
                f"{len(lacking)} of {len(specs)} rows have no record in '{options['from']}' (first: "
                f"{lacking[0]}); run 'erk-bench table' to compute them"
            )
        records = [found[spec.run_id] for spec in specs]
    else:
        computed = _compute_rows(content, specs)
        if computed is None:
            return 0
        records = computed
    view = table_building.build_view(content, records, references)
    name = content["name"]
    for form, text in (("md", views.markdown), ("csv", views.to_csv), ("tex", views.latex)):
        write_atomic(to / f"{name}.{form}", text(view).encode())
    for form in ("png", "svg"):
        write_atomic(to / f"{name}-steps.{form}", figures.to_bytes(figures.steps_figure(view), form))
    if not options["from"]:
        _sample_sheet(content, specs, view, to / f"{name}-samples.png")
    if options["records"]:
        for record in records:
            write_record(Path(options["records"]) / f"{record.run_id}.json", record)
    views.print_table(view, _console())
    print(f"table and pictures: {to}/{name}*")
    off = [row for row in view.rows if row.off]
    if off:
        print(f"{len(off)} of {len(view.rows)} rows are off their reference records", file=sys.stderr)
        return 1
    unknown = [row for row in view.rows if not row.reproduction]
    if as_published and unknown and not again and not options["records"]:
        print(f"{len(unknown)} of {len(view.rows)} rows have no record in {reference}", file=sys.stderr)
        return 1
    if not again:
        reproduced = sum("within" in row.reproduction for row in view.rows)
        print(f"{reproduced} of {len(view.rows)} rows reproduced; reference records: {reference}")
    return 0


def _compute_rows(content: Mapping[str, Any], specs: Sequence[RunSpec]) -> list[Record] | None:
    """The rows' records, from earlier runs or computed now; None on a rank that does not report."""
    start = time.monotonic()
    done = {spec.run_id: stages.finished_record(spec) for spec in specs}
    todo = [spec for spec in specs if done[spec.run_id] is None]
    if not todo and not launch.reports():
        return None
    if todo:
        title = f"table {content['name']}, {len(todo)} rows"
        if not launch.compute(table_building.pairs(todo), features=True, title=title):
            return None
        # Threads suffice: the work is in torch and numpy, which leave the interpreter meanwhile.
        with ThreadPoolExecutor(launch.default_workers(specs[0])) as pool:
            for spec, record in zip(todo, pool.map(stages.score, todo), strict=True):
                done[spec.run_id] = record
        print(f"computed {len(todo)} of {len(specs)} rows in {time.monotonic() - start:.0f} s")
    return [record for record in done.values() if record is not None]


def _sample_sheet(
    content: Mapping[str, Any], specs: Sequence[RunSpec], view: views.TableView, path: Path
) -> None:
    """The first seeds of every unguided row side by side, where their images are still kept."""
    shown = {}
    for spec, row in zip(specs, view.rows, strict=True):
        few = dataclasses.replace(
            spec,
            seeds=f"{spec.seed_range[0]}-{min(spec.seed_range[-1], spec.seed_range[0] + SHEET_COLUMNS - 1)}",
        )
        if spec.guidance.weight == 1 and not stages.unfinished(few, features=False):
            pictures = [image for _, image, _ in images_of(few)]
            shown[f"{row.steps} steps, {row.method}"] = pictures
    if shown:
        seeds = [str(seed) for seed in specs[0].seed_range[:SHEET_COLUMNS]]
        sheet = figures.sample_sheet(
            {label: np.stack(images) for label, images in shown.items()},
            f"{content['name']}: one seed a column, one method a row",
            seeds,
        )
        write_atomic(path, figures.to_bytes(sheet, "png"))


def plan(specs: Sequence[RunSpec]) -> int:
    """What is left to do, in blocks, network evaluations, disk and time; nothing is sampled or written."""
    table = RichTable(title="plan")
    for header in ("run", "images", "blocks done", "NFE / image", "evaluations left", "disk left"):
        table.add_column(header, justify="left" if header == "run" else "right")
    evaluations, disk, seconds = 0, 0, 0.0
    for spec in specs:
        blocks = blocks_of(spec.seed_range, spec.block_size)
        left = len(stages.unfinished(spec, features=True)) * spec.block_size
        nfe, nfe_guide = planning.count_evaluations(spec)
        cost = planning.estimate(spec)
        size = left * cost.bytes_per_image
        evaluations += left * (nfe + nfe_guide)
        disk += size
        seconds += left * (nfe * cost.seconds + nfe_guide * cost.seconds_guide)
        table.add_row(
            spec.run_id,
            f"{len(spec.seed_range):,}",
            f"{len(blocks) - left // spec.block_size} / {len(blocks)}",
            f"{nfe} + {nfe_guide}" if nfe_guide else str(nfe),
            f"{left * (nfe + nfe_guide):,}",
            f"{size / 1e6:.1f} MB",
        )
    _console().print(table)
    workers = launch.default_workers(specs[0])
    print(
        f"to do: {evaluations:,} network evaluations, {disk / 1e6:.1f} MB on disk; about "
        f"{seconds / 3600:.2f} worker-hours on this machine ({seconds / 60 / workers:.1f} minutes with "
        f"{workers} workers), from one timed batch"
    )
    return 0


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
    print(f"use it: erk-bench generate model.name=mine model.weights.path={target} model.decoder=rgb")
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


def doctor(groups: Mapping[str, Sequence[str]]) -> int:
    """What is installed, found and free; status 1 if something needed is missing."""
    facts = environment(torch.device("cpu"))
    problems = []
    print(f"erk-bench {erk_bench.__version__}, Python {platform.python_version()}, {facts['platform']}")
    print(f"commit: {facts['commit'] or 'not a checkout'}{' (changed)' if facts['dirty'] else ''}")
    for name in PACKAGES[1:]:
        try:
            print(f"  {name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"package {name} is not installed: pip install {name}")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    print(f"GPUs: {', '.join(names) or 'none'}; CPU: {facts['device']}, {os.cpu_count()} cores")
    launcher = {key: os.environ[key] for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if key in os.environ}
    print(f"launcher: {launcher or 'none (local workers)'}")
    print(f"configs: {config_folder()}")
    for group, choices in groups.items():
        print(f"  {group}: {', '.join(choices)}")
    for name in preset_files():
        try:
            net = erk_bench.load_denoiser(name)
            print(f"model {name}: {net.img_channels}x{net.img_resolution}x{net.img_resolution}, loads")
        except UserError as error:
            problems.append(f"model {name}: {error}")
    free = shutil.disk_usage(".").free
    print(f"disk free here: {free / 1e9:.1f} GB")
    for problem in problems:
        print(f"PROBLEM: {problem}")
    print(f"{len(problems)} problems found" if problems else "no problems found")
    return 1 if problems else 0
