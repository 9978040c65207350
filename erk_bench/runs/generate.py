"""The pipeline on one page: RunSpec -> blocks of samples -> features -> Record.

Each stage can be stopped, resumed and run again alone; stages meet in the files of a RunStore.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import itertools
import math
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch

from erk_bench.base import stopping
from erk_bench.base.errors import DamagedError, UserError
from erk_bench.base.fields import to_dict
from erk_bench.evaluation.detectors import detector_key, detector_of
from erk_bench.evaluation.families import Extracted
from erk_bench.evaluation.metrics import (
    check_count,
    check_real,
    code_keys,
    detectors_of,
    key_names,
    measure,
)
from erk_bench.evaluation.reference import REFERENCES, check_resolution, load_real, reference_facts
from erk_bench.runs.blocks import Block, Worker, blocks_of
from erk_bench.runs.checks import check_images, check_names, check_networks
from erk_bench.runs.claims import Claims
from erk_bench.runs.device import assets_of, check_draws, pick_device
from erk_bench.runs.equation import equation_of
from erk_bench.runs.export import export_npz
from erk_bench.runs.finish_block import Job, detector_keys, finished, is_kept, npz_path, wants_images
from erk_bench.runs.launches import LOCKS, working_on
from erk_bench.runs.records import MetricRecord, Record, environment, read_record, write_record
from erk_bench.runs.sample_block import is_tree
from erk_bench.runs.store import DAMAGED, RunStore, Timing, set_aside
from erk_bench.runs.writer import BlockWriter
from erk_bench.spec import PROTOCOL, RunSpec

ASK_AGAIN_S = 0.2  # after a block that another process computes

# Called after every finished block with its run and the number of its images.
Progress = Callable[[RunSpec, int], None]


def addresses_of(spec: RunSpec, *, features: bool = True) -> list[str]:
    """Every file that a run (and its evaluation, if asked) needs, by address (see storage/assets)."""
    found = [item.path for item in spec.weights]
    if not features:
        return found
    files = [detector_of(name).weights for name in detectors_of(spec.metrics.names)]
    files += [spec.metrics.reference, spec.metrics.real_features]
    found += [file for file in files if file is not None and file not in REFERENCES]
    return list(dict.fromkeys(found))


def check_enough(spec: RunSpec) -> None:
    """Refuse too few seeds for the metrics, or draws of another device, before any image is made."""
    check_count(spec.metrics, len(spec.seed_range))
    check_draws(spec)


def check_reference(spec: RunSpec) -> None:
    """Refuse networks, metrics or a reference that do not fit together before any image is made."""
    assets = assets_of(spec)
    check_networks(spec)
    resolution = check_images(spec)
    check_real(spec.metrics, len(spec.seed_range), load_real(spec.metrics, assets))
    check_resolution(spec.metrics, assets, resolution)


def unfinished(spec: RunSpec, *, features: bool, among: Sequence[Block] | None = None) -> list[Block]:
    """The blocks of the spec's seeds that still lack features (or, for features=False, images).

    among: blocks to look at, where the others are known to be finished.
    """
    blocks = blocks_of(spec.seed_range, spec.block_size) if among is None else among
    store = RunStore.open(spec)
    keys = list(detector_keys(spec).values()) if features else []
    images = wants_images(spec) or not features
    return [
        block
        for block in blocks
        if not all(store.has_features(key, block) for key in keys)
        or (images and not is_kept(spec, store, block))
        or store.lost_images(block)
    ]


def set_aside_damaged(specs: Sequence[RunSpec], worker: Worker, *, features: bool) -> None:
    """Read this worker's share of the files that are there, and tell how many were damaged, in one line.

    They are renamed, so that they count as missing.
    """
    found: list[Path] = []
    for spec in specs:
        keys = list(detector_keys(spec).values()) if features else []
        blocks = worker.owned(blocks_of(spec.seed_range, spec.block_size))
        found += RunStore.open(spec).set_aside_damaged(blocks, keys)
    if found:
        print(
            f"warning: {len(found)} block files were damaged and are computed again (first: '{found[0]}', "
            f"renamed to {DAMAGED})",
            file=sys.stderr,
        )


def generate(
    groups: Sequence[Sequence[RunSpec]],
    worker: Worker,
    progress: Progress,
    *,
    features: bool,
    shared: bool = False,
) -> None:
    """This worker's share of the images of every spec and, if asked, of their features.

    Group after group; within one, specs take turns block by block, so that their timings compare. shared:
    specs of a group compute what their trajectories have in common once. Then blocks that other workers have
    not begun, from the last one back, so that nobody waits for a slow one or for one that is gone. Finished
    blocks are skipped; where features are asked for and all there, images may have been deleted. Files are
    written beside the sampler, and all of them are there when this returns.
    Raises UserError for anything a user can put right, Stopped between two blocks where a signal asked for
    it; finished blocks stay.
    """
    device = pick_device(groups[0][0], worker)
    with ExitStack() as stack:
        stores: dict[str, RunStore] = {}
        claims: dict[str, Claims] = {}
        keys: dict[str, dict[str, str]] = {}
        for spec in itertools.chain(*groups):
            if spec.run_id not in stores:
                check_names(spec)
                stores[spec.run_id] = RunStore.open(spec)
                keys[spec.run_id] = detector_keys(spec) if features else {}
        for folder in dict.fromkeys(store.folder.parent for store in stores.values()):
            here = {run_id: store for run_id, store in stores.items() if store.folder.parent == folder}
            stack.enter_context(working_on(list(here.values()), worker))
            shared_claims = stack.enter_context(contextlib.closing(Claims(folder / LOCKS / "blocks")))
            for run_id, store in here.items():
                store.create()
                claims[run_id] = shared_claims
        writer = stack.enter_context(BlockWriter())
        begun = set()  # blocks of this call, whose files may not be there yet
        failed: dict[str, UserError] = {}  # runs of a tree that came to nothing
        elsewhere: list[Job] = []  # own blocks that somebody else computes

        def written(job: Job) -> None:
            claims[job.spec.run_id].release(job.spec.run_id, job.block)
            progress(job.spec, job.block.size)

        for turn in _turns(groups, worker, shared=shared):
            jobs = []
            for spec, block in turn.blocks:
                run_id = spec.run_id
                if (
                    (run_id, block) in begun
                    or run_id in failed
                    or (turn.taken_over and not claims[run_id].usable)
                ):
                    continue
                job = Job(spec, stores[run_id], block, worker, keys[run_id])
                if job.is_done:
                    continue
                if claims[run_id].take(run_id, block):
                    begun.add((run_id, block))
                    jobs.append(job)
                elif not turn.taken_over:
                    elsewhere.append(job)
            for some in [jobs] if turn.together else [[job] for job in jobs]:
                for done, write in finished(some, device):
                    if isinstance(write, UserError):
                        failed[done.spec.run_id] = write
                    else:
                        writer.submit(write, functools.partial(written, done))
            stopping.check()
        # What others took over from here: until it is there, or they are gone.
        while any((job.spec.run_id, job.block) not in begun and not job.is_done for job in elsewhere):
            time.sleep(ASK_AGAIN_S)
            stopping.check()
            for job in elsewhere:
                key = (job.spec.run_id, job.block)
                if key not in begun and not job.is_done and claims[key[0]].take(*key):
                    begun.add(key)
                    for done, write in finished([job], device):
                        assert not isinstance(write, UserError)  # of a run alone, it is raised
                        writer.submit(write, functools.partial(written, done))
    for error in failed.values():
        raise UserError(f"{error} ({len(failed)} runs failed, the others of their trees are done)")


class _Turn(NamedTuple):
    """Blocks to compute next. together: one block of runs that share trajectories. taken_over: of others."""

    blocks: list[tuple[RunSpec, Block]]
    together: bool
    taken_over: bool = False


def _turns(groups: Sequence[Sequence[RunSpec]], worker: Worker, *, shared: bool) -> Iterator[_Turn]:
    """This worker's own blocks, then everybody's from the last back.

    Blocks are dealt like cards, going on from run to run: dealt from the first worker every time, the last of
    1,000 workers would have none of runs of 500 blocks.
    """
    dealt = 0
    before: dict[str, int] = {}  # a run in two groups has the same owners
    whole: list[_Turn] = []
    for group in groups:
        tree = shared and is_tree(group)
        shares = []
        for spec in group:
            blocks = blocks_of(spec.seed_range, spec.block_size)
            begin = before.setdefault(group[0].run_id if tree else spec.run_id, dealt)
            shares.append(worker.owned(blocks, begin))
            if not tree or spec is group[-1]:
                dealt += len(blocks)
        for turn in itertools.zip_longest(*shares):
            pairs = [(spec, block) for spec, block in zip(group, turn, strict=True) if block is not None]
            yield _Turn(pairs, tree and len(set(turn)) == 1)
        of_group: dict[Block, list[tuple[RunSpec, Block]]] = {}
        for spec in group:
            for block in blocks_of(spec.seed_range, spec.block_size):
                of_group.setdefault(block, []).append((spec, block))
        whole += [_Turn(of_group[block], tree, taken_over=True) for block in sorted(of_group)]
    if worker.world_size > 1:
        yield from reversed(whole)


def score(spec: RunSpec) -> Record:
    """Compute every metric from the kept features and write the record beside them.

    Raises UserError, counting the missing blocks, while the features are not complete.
    """
    store = RunStore.open(spec)
    seeds = spec.seed_range
    blocks = blocks_of(seeds, spec.block_size)
    missing = unfinished(spec, features=True)
    if missing:
        raise UserError(
            f"{len(missing)} of {len(blocks)} blocks of {spec.run_id} are missing (first: {missing[0]}); "
            "run 'erk-bench run' again with the same arguments: finished blocks are kept"
        )
    keys = detector_keys(spec)
    extracted, counts = {}, list[tuple[float, float]]()
    damaged: list[DamagedError] = []
    for name, key in keys.items():
        parts = []
        for block in blocks:
            try:
                tensors, meta = store.read_features(key, block)
            except DamagedError as error:
                damaged.append(error)
                continue
            counts.append((meta["nfe"], meta["nfe_guide"]))
            kept = slice(max(seeds[0] - block.seeds[0], 0), seeds[-1] - block.seeds[0] + 1)
            parts.append({name: value[kept] for name, value in tensors.items()})
        if not damaged:
            joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            extracted[name] = Extracted(joined["features"], joined.get("logits"))
    if damaged:
        raise DamagedError.of(damaged)
    if len(set(counts)) > 1 and not equation_of(spec, imported=False).solver.row.adaptive:
        raise UserError(f"blocks of {spec.run_id} differ in network evaluations: {sorted(set(counts))}")
    nfe, nfe_guide = (_mean(column) for column in zip(*counts, strict=True))
    measured = measure(spec.metrics, extracted, load_real(spec.metrics, assets_of(spec)))
    timings = store.timings()
    timed = {block.index: timings[block.index] for block in blocks if block.index in timings}
    record = Record(
        run_id=spec.run_id,
        spec=to_dict(spec),
        seeds=spec.seeds,
        num_images=len(seeds),
        nfe=nfe,
        nfe_guide=nfe_guide,
        metrics={
            name: MetricRecord(item.value, item.standard_error, item.replicates)
            for name, item in measured.items()
        },
        seconds_per_block={
            str(index): round(timing.seconds, 6) for index, timing in timed.items() if timing.cells == 1
        },
        reference=reference_facts(spec.metrics, assets_of(spec)),
        detectors=(*keys.values(), *code_keys(spec.metrics.names)),
        environment={
            **environment(pick_device(spec, Worker())),
            "sampled_on": sorted({timing.device for timing in timed.values()}),
            **_sharing(timed.values(), len(blocks), (nfe + nfe_guide) * spec.block_size),
        },
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    _keep(record_path(spec), record, spec)
    return record


def _mean(counts: Sequence[float]) -> float:
    """The evaluations of all blocks, or their mean where samples choose their own steps."""
    return counts[0] if len(set(counts)) == 1 else round(math.fsum(counts) / len(counts), 2)


def _sharing(timings: Collection[Timing], num_blocks: int, alone: float) -> dict[str, Any]:
    """How far the run's trajectories were shared with others; nothing unless all of its blocks are known.

    alone: evaluations of a block that was not shared.
    """
    cells = max((timing.cells for timing in timings), default=1)
    if cells == 1 or len(timings) < num_blocks:
        return {}
    counted = math.fsum(alone if item.evaluations is None else item.evaluations for item in timings)
    return {"shared": {"cells": cells, "evaluations": counted}}


def record_path(spec: RunSpec) -> Path:
    """Where `score` writes the record of a spec and its seeds."""
    return RunStore.folder_of(spec) / "records" / f"{spec.seeds}.json"


def finished_record(spec: RunSpec) -> Record | None:
    """The record of an earlier run of the same samples, seeds and metrics, if there is one."""
    record = _own_record(record_path(spec), spec)
    if record is None:
        return None
    if not _measured_alike(record, spec) or not set(spec.metrics.names) <= set(record.metrics):
        return None
    return _with_metrics(record, spec.metrics.names)


def _own_record(path: Path, spec: RunSpec) -> Record | None:
    """The record of a run's own folder. A damaged one is set aside: it is scored again."""
    if not path.is_file():
        return None
    try:
        record = read_record(path)
        if (record.run_id, record.seeds, record.num_images) == (
            spec.run_id,
            spec.seeds,
            len(spec.seed_range),
        ):
            return record
        problem = "it is of another run"
    except UserError as error:
        problem = str(error)
    set_aside(path)
    print(f"warning: the record '{path}' was damaged and is made again ({problem})", file=sys.stderr)
    return None


def _measured_alike(record: Record, spec: RunSpec) -> bool:
    """Whether a record, whichever metrics it has, was measured as the spec asks."""
    measured = record.run_spec.metrics
    shared = [name for name in spec.metrics.names if name in record.metrics]
    keys = {*(detector_key(name, assets_of(spec)) for name in detectors_of(shared)), *code_keys(shared)}
    return (
        dataclasses.replace(measured, names=spec.metrics.names) == spec.metrics
        and keys <= set(record.detectors)
        and record.reference == reference_facts(spec.metrics, assets_of(spec))
        and record.protocol == PROTOCOL
    )


def _with_metrics(record: Record, names: Sequence[str]) -> Record:
    """The same record with some of its metrics, and the detectors that they need."""
    needed = key_names(names)
    return dataclasses.replace(
        record,
        spec={**record.spec, "metrics": {**record.spec["metrics"], "names": list(names)}},
        metrics={name: record.metrics[name] for name in names},
        detectors=tuple(key for key in record.detectors if key.rpartition("-")[0] in needed),
    )


def _keep(path: Path, record: Record, spec: RunSpec) -> None:
    """Write a record; metrics that an earlier one has beside, measured alike, stay in the file."""
    earlier = _own_record(path, spec)
    if earlier is not None and _measured_alike(earlier, spec):
        metrics = {**earlier.metrics, **record.metrics}
        detectors = tuple(dict.fromkeys((*earlier.detectors, *record.detectors)))
        record = _with_metrics(
            dataclasses.replace(record, metrics=metrics, detectors=detectors), tuple(metrics)
        )
    write_record(path, record)


def finish_samples(spec: RunSpec) -> Path | None:
    """The folder or file of images that `samples` asks for; writes the .npz from the blocks."""
    folder = RunStore.folder_of(spec)
    if spec.samples == "npz":
        path = npz_path(spec)
        if not path.is_file():
            export_npz(spec, path)
        return path
    return {"png": folder / "png", "blocks": folder / "images"}.get(spec.samples)


def fetch(spec: RunSpec, *, features: bool) -> None:
    """Fetch what is missing of a run's files: those for sampling, and if asked those for measuring.

    Under a launcher every rank calls this: one fetches, the others wait.
    """
    assets = assets_of(spec)
    for address in addresses_of(spec, features=features):
        assets.locate(address)
