"""`erk-bench evaluate`: scores of the images that a run has; it never samples."""

from __future__ import annotations

import sys

from erk_bench.base.errors import UserError
from erk_bench.commands.command import Command
from erk_bench.commands.run import RunOptions, show_record, show_settings
from erk_bench.commands.settings import RUN

MANY = 10_000  # images whose metrics take minutes


def evaluate(options: RunOptions, settings: list[str]) -> int:
    from erk_bench.commands.compose import run_spec
    from erk_bench.commands.tracking import refuse_tracker
    from erk_bench.runs import launch
    from erk_bench.runs.blocks import blocks_of
    from erk_bench.runs.device import assets_of
    from erk_bench.runs.generate import to_sample, unfinished
    from erk_bench.runs.score import record_path, score
    from erk_bench.runs.solver_errors import check_kept
    from erk_bench.runs.store import RunStore
    from erk_bench.studies.records import prepare

    if options.cfg:
        return show_settings(settings)
    refuse_tracker(settings, "generate, evaluate and export do")
    spec = run_spec(settings)
    prepare([spec])
    store = RunStore.open(spec)
    left = unfinished(spec, features=True)
    lacking = to_sample(spec, left)
    if lacking:
        total = len(blocks_of(spec.seed_range, spec.block_size))
        states = all(map(store.has_images, lacking))
        what = "final states of " if states else ""
        raise UserError(
            f"{what}{len(lacking)} of {total} blocks are missing (first: {lacking[0]}) in {store.folder}; "
            "run 'erk-bench generate' with the same settings first"
        )
    check_kept(spec, assets_of(spec))
    title = f"features of {spec.run_id}"
    if launch.compute([[spec]], features=True, title=title, left={spec.run_id: left}):
        if len(spec.seed_range) >= MANY:
            images = f"{len(spec.seed_range):,} images"
            print(f"scoring {images}: {', '.join(spec.metrics.names)}", file=sys.stderr)
        show_record(score(spec, complete=True), record_path(spec))
    return 0


COMMAND = Command(
    name="evaluate",
    summary="score the images that a run has",
    run=evaluate,
    options=RunOptions,
    settings=RUN,
    examples="""\
  erk-bench evaluate seeds=0-9999 metrics.names=[fd_digits,recall_digits]""",
)
