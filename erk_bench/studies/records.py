"""Records of many runs: those of earlier launches, and what is missing computed and scored."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from erk_bench.base import stopping
from erk_bench.base.errors import UserError
from erk_bench.base.progress import progress_bar
from erk_bench.reporting.trackers.tracker import Tracker
from erk_bench.runs import launch
from erk_bench.runs.blocks import Block, blocks_of
from erk_bench.runs.converged import converged_of
from erk_bench.runs.device import assets_of
from erk_bench.runs.export import finish_samples
from erk_bench.runs.generate import to_sample, unfinished
from erk_bench.runs.needs import check_enough, check_packages, check_reference, fetch
from erk_bench.runs.records import Record, RecordKey, read_record
from erk_bench.runs.score import finished_record, score
from erk_bench.spec import RunSpec, Spec
from erk_bench.studies.score_ahead import ScoreAhead, scoring_place

MANY, FEW = 10_000, 4  # images whose features take gigabytes, and records that may do so at a time


def prepare(specs: Sequence[Spec]) -> None:
    """Everything that can fail before an image is made; fetches what is missing."""
    for spec in specs:
        check_enough(spec)
        check_packages(spec)
    assets = assets_of(specs[0])
    for spec in specs:
        fetch(spec, assets, features=True)
    if launch.reports():
        for spec in specs:
            check_reference(spec, assets)


def compute_records(
    groups: Sequence[Sequence[Spec]],
    *,
    title: str,
    tracker: Tracker,
    shared: bool = False,
    sampling: bool = True,
) -> dict[str, Record] | None:
    """The record of every run by run_id, computed where it is missing; None on a rank that shows nothing.

    groups: see `runs.generate`; of each, the runs that lack something are computed.
    sampling: without it, images or features that are missing are an error.
    """
    start = time.monotonic()
    assets = assets_of(groups[0][0])
    done = {spec.run_id: finished_record(spec, assets) for spec in itertools.chain(*groups)}
    left = {spec.run_id: unfinished(spec, assets, features=True) for spec in itertools.chain(*groups)}
    lacking = [[spec for spec in group if done[spec.run_id] is None or left[spec.run_id]] for group in groups]
    lacking = [group for group in lacking if group]
    todo = [spec for group in lacking for spec in group]
    if not todo and not launch.reports():
        return None
    if todo:
        first = converged_of(todo)
        left_first = {spec.run_id: unfinished(spec, assets, features=True) for spec in first}
        if not sampling:
            _check_sampled(
                [(spec, left_first[spec.run_id]) for spec in first]
                + [(spec, left[spec.run_id]) for spec in todo]
            )
        if first:  # rows share them, and scoring reads them
            launch.compute(
                [[spec] for spec in first],
                features=True,
                title=f"converged solutions for {title}",
                watch=tracker.advance,
                expect=tracker.expect,
                left=left_first,
            )
        with ScoreAhead(todo) as ahead:
            complete = launch.compute(
                lacking,
                features=True,
                title=title,
                shared=shared,
                watch=ahead.watching(tracker.advance),
                expect=tracker.expect,
                left=left,
            )
            if not complete:
                return None
            with _scored(todo, ahead) as records:
                for spec, record in zip(todo, records, strict=True):
                    done[spec.run_id] = record
        print(f"computed {len(todo)} of {len(done)} runs in {time.monotonic() - start:.0f} s")
    for spec in itertools.chain(*groups):
        if isinstance(spec, RunSpec):
            finish_samples(spec)
    return {run_id: record for run_id, record in done.items() if record is not None}


def _check_sampled(runs: Sequence[tuple[Spec, Sequence[Block]]]) -> None:
    """runs: each with the blocks that are not finished."""
    missing = []
    for spec, unfinished_blocks in runs:
        blocks = to_sample(spec, unfinished_blocks)
        if blocks:
            missing.append((spec, blocks))
    if missing:
        spec, blocks = missing[0]
        total = len(blocks_of(spec.seed_range, spec.block_size))
        raise UserError(
            f"{len(missing)} runs are not complete (first: {spec.run_id}, {len(blocks)} of {total} blocks), "
            "and sampling is false; see the logs of the jobs that compute them, or run this without "
            "sampling=false"
        )


@contextmanager
def _scored(specs: Sequence[Spec], ahead: ScoreAhead) -> Iterator[Iterator[Record]]:
    """The records of the runs one after the other, as they are scored. ahead: has scored some already."""
    # Threads suffice: the work is in torch and numpy, which leave the interpreter meanwhile. Beside GPUs
    # each record has all CPU cores to itself, and needs gigabytes.
    place = scoring_place(specs[0])
    on_cpu = place.device.type == "cpu" and not torch.cuda.is_available()
    images = [len(spec.seed_range) for spec in specs]
    threads = launch.default_workers(specs[0]) if on_cpu else 1
    pool = ThreadPoolExecutor(min(threads, FEW) if max(images) >= MANY else threads)
    try:
        with progress_bar(f"scoring {len(specs)} runs", sum(images), sum(images), shown=True) as bar:

            def records() -> Iterator[Record]:
                def one(spec: Spec) -> Record:
                    return ahead.record(spec) or score(spec, place, complete=True)

                for record, count in zip(pool.map(one, specs), images, strict=True):
                    bar(count, count)
                    yield record
                    stopping.check()

            yield records()
    finally:
        pool.shutdown(cancel_futures=True)


def read_records(specs: Sequence[Spec], folders: str) -> list[Record]:
    """The record of each run from one or several folders of records, for what needs no computing."""
    found: dict[RecordKey, Record] = {}
    for folder in folders.split(","):
        found |= read_folder(Path(folder).expanduser())
    there = {key[:2]: key for key in found}
    lacking = [key for key in map(RecordKey.of, specs) if key not in found]
    for key in lacking:
        if key[:2] in there:
            raise UserError(_measured_otherwise(key, there[key[:2]], folders))
    if lacking:
        raise UserError(
            f"{len(lacking)} of {len(specs)} runs have no record in '{folders}' (first: "
            f"{lacking[0].run_id}, seeds {lacking[0].seeds}); leave out from=... to compute them"
        )
    return [found[RecordKey.of(spec)] for spec in specs]


def _measured_otherwise(key: RecordKey, kept: RecordKey, folders: str) -> str:
    if key.reference != kept.reference:
        return (
            f"the record of {key.run_id} in '{folders}' was measured against '{kept.reference}', not "
            f"'{key.reference}'; show it with metrics.reference={kept.reference}"
        )
    return (
        f"the record of {key.run_id} in '{folders}' was measured by protocol '{kept.protocol or 'none'}', "
        f"not '{key.protocol or 'none'}'; show it with that protocol, or leave out from=... to compute it"
    )


def read_folder(folder: Path) -> dict[RecordKey, Record]:
    """All records of a folder; empty if there is no such folder."""
    records = (read_record(path) for path in sorted(folder.glob("*.json")))
    return {record.key: record for record in records}
