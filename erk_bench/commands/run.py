"""`erk-bench run`: one run from noise to record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from erk_bench.commands.command import Command
from erk_bench.commands.options import Flag, option
from erk_bench.commands.settings import RUN

if TYPE_CHECKING:
    from erk_bench.reporting.trackers.tracker import Tracker
    from erk_bench.runs.records import Record
    from erk_bench.spec import RunSpec


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of the commands on one run."""

    cfg: bool = option(Flag(), "show the settings that will run, as YAML, and do nothing else", False)


def run(options: RunOptions, settings: list[str]) -> int:
    from erk_bench.commands.compose import run_spec
    from erk_bench.commands.tracking import tracked

    if options.cfg:
        return show_settings(settings)
    spec = run_spec(settings)
    with tracked("run", spec.run_id, [spec], settings) as tracker:
        return run_one(spec, tracker)


def run_one(spec: RunSpec, tracker: Tracker) -> int:
    """Generate, extract and score one run; a finished one is only shown."""
    from erk_bench.runs.score import record_path
    from erk_bench.runs.store import RunStore
    from erk_bench.studies.records import compute_records, prepare

    prepare([spec])
    records = compute_records([[spec]], title=spec.run_id, tracker=tracker)
    if records is not None:
        tracker.record(records[spec.run_id], RunStore.folder_of(spec))
        show_record(records[spec.run_id], record_path(spec))
        _show_samples(spec)
    return 0


def show_settings(settings: list[str]) -> int:
    """Print what the settings compose to, presets and tracks applied; nothing is fetched."""
    from erk_bench.commands.compose import run_spec, settings_text

    print(settings_text(run_spec(settings, fetch=False)), end="")
    return 0


def show_record(record: Record, path: Path) -> None:
    """Print the metrics and counts of a record."""
    from rich.table import Table as RichTable

    from erk_bench.base.console import wide_console
    from erk_bench.evaluation.metrics import METRICS
    from erk_bench.reporting import table_views
    from erk_bench.spec import RunSpec

    made = record.source
    called = record.run_id if isinstance(made, RunSpec) else f"{made.name} ({record.run_id})"
    table = RichTable(title=f"{called}, {record.num_images} images", show_header=True)
    table.add_column("metric")
    table.add_column("value ± standard error", justify="right")
    for name, metric in record.metrics.items():
        title = METRICS[name].title if name in METRICS else name
        table.add_row(title, table_views.rounded((metric.value, metric.standard_error)))
    if isinstance(made, RunSpec):
        guide = f" + {record.nfe_guide} of the guiding network" if record.nfe_guide else ""
        table.add_row("NFE per image", f"{record.nfe}{guide}")
    if record.seconds_per_1000 is not None:
        table.add_row("seconds per 1000 images and worker", f"{record.seconds_per_1000:.1f}")
    wide_console().print(table)
    if protocol := record.spec["metrics"].get("protocol"):
        print(f"protocol: {protocol} (docs/protocols.md)")
    for line in remarks(record):
        print(line)
    print(f"record: {path}")


def remarks(record: Record) -> list[str]:
    """What a reader of the figures must know, a line each."""
    from erk_bench.evaluation.image_files import SHOWN, visible

    found = []
    if unreadable := record.images.get("unreadable"):
        names = ", ".join(visible(name) for name in unreadable[:SHOWN])
        more = ", ..." if unreadable[SHOWN:] else ""
        found.append(f"{len(unreadable)} images cannot be read and are left out: {names}{more}")
    if copies := record.images.get("duplicates"):
        found.append(f"{copies} of {record.num_images} images are copies of others of the set")
    if record.images.get("reference"):
        found.append("this set is the reference itself: its distances say nothing")
    if made := record.converged:
        check = made["check"]
        told = ", ".join(f"{value:.3g} ({name})" for name, value in check.items() if name in record.metrics)
        found.append(
            f"solver errors are distances to the solution by {record.solution}; {check['num_steps']} steps "
            f"are {told} away from it"
        )
    return found


def _show_samples(spec: RunSpec) -> None:
    from erk_bench.runs.blocks import blocks_of
    from erk_bench.runs.export import finish_samples

    path = finish_samples(spec)
    if path is None or not path.exists():
        return
    print(f"images: {path}")
    blocks = blocks_of(spec.seed_range, spec.block_size)
    extra = len(blocks) * spec.block_size - len(spec.seed_range)
    if spec.samples == "png" and extra:
        print(f"it also has {extra} images of seeds outside {spec.seeds}; 'erk-bench export' leaves them out")


COMMAND = Command(
    name="run",
    summary="generate, extract features and score one run",
    run=run,
    options=RunOptions,
    settings=RUN,
    examples="""\
  erk-bench run                                             # Heun, 32 steps, 1000 digits
  erk-bench run schedule.num_steps=8 correction=erk_guid correction.w_stiff=0.75 correction.w_con=0.3
  erk-bench run model=edm2-img512-s-fid schedule.num_steps=16    # ImageNet: fetches what it needs, wants GPUs
  erk-bench run model=edm2-img512-s-guid-fid --cfg          # every setting that this would run with
  erk-bench run guidance=cfg guidance.weight=1.5 guidance.interval=[0.2,2.0] seeds=0-4999
  torchrun --nproc_per_node=8 -m erk_bench.cli run seeds=0-49999""",
)
