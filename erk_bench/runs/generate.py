"""The pipeline on one page: Spec -> blocks of images -> features. `score` makes the record of them.

Each stage can be stopped, resumed and run again alone; stages meet in the files of a RunStore.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from erk_bench.base import stopping
from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.evaluation.detectors import STATE
from erk_bench.runs.blocks import Block, Worker, blocks_of
from erk_bench.runs.checks import check_task
from erk_bench.runs.claims import Claims
from erk_bench.runs.device import Place, assets_of
from erk_bench.runs.finish_block import (
    Job,
    detector_keys,
    finished,
    is_kept,
    wanted_keys,
    wants_images,
)
from erk_bench.runs.launches import LOCKS, working_on
from erk_bench.runs.listing import Listing, Listings
from erk_bench.runs.lock_probe import LockProbe
from erk_bench.runs.sample_block import is_tree
from erk_bench.runs.set_block import read_ahead
from erk_bench.runs.store import DAMAGED, RunStore, folders_in
from erk_bench.runs.writer import BlockWriter
from erk_bench.spec import SetSpec, Spec

RELIST_S = 10.0  # a run's folders are listed again after so long, where others may have done its blocks,
RELIST_SHARE = 0.25  # and after so much of the time since this process began
WAIT_S, MOST_WAIT_S = 0.2, 5.0  # for a block that another process computes, longer each time

# Called after every finished block with its run and the number of its images.
Progress = Callable[[Spec, int], None]


def unfinished(
    spec: Spec,
    assets: Assets | None = None,
    *,
    features: bool,
    among: Sequence[Block] | None = None,
) -> list[Block]:
    """The blocks of the spec's seeds that still lack features (or, for features=False, images).

    It lists the run's folders once, however many blocks there are. among: only these blocks are looked for;
    the caller knows that the others are finished. assets: looked up, if not given.
    """
    blocks = blocks_of(spec.seed_range, spec.block_size) if among is None else among
    if not blocks:
        return []
    keys = list(wanted_keys(spec, assets or assets_of(spec), features=features).values())
    files = Listing(RunStore.open(spec), keys)
    images = wants_images(spec) or not features
    return [
        block
        for block in blocks
        if not all(files.has_features(key, block) for key in keys)
        or (images and not is_kept(spec, files, block))
        or (spec.samples != "none" and files.lost_images(block))
    ]


def to_sample(spec: Spec, among: Sequence[Block]) -> list[Block]:
    """The blocks that only sampling completes: without images, or without a final state that is asked for."""
    keys = detector_keys(spec, assets_of(spec))
    files = Listing(RunStore.open(spec), list(keys.values()))
    return [
        block
        for block in among
        if not files.has_images(block) or (STATE in keys and not files.has_features(keys[STATE], block))
    ]


def set_aside_damaged(
    specs: Sequence[Spec], assets: Assets, worker: Worker, *, features: bool
) -> dict[str, list[Block]]:
    """Read this worker's share of the files that are there; one line tells how many were damaged.

    Damaged files are renamed, so that they count as missing. Returns their blocks by run_id.
    """
    found: list[Path] = []
    damaged: dict[str, list[Block]] = {}
    for spec in specs:
        keys = list(wanted_keys(spec, assets, features=features).values())
        blocks = worker.owned(blocks_of(spec.seed_range, spec.block_size))
        paths = RunStore.open(spec).set_aside_damaged(blocks, keys)
        damaged[spec.run_id] = [Block(int(path.stem), spec.block_size) for path in paths]
        found += paths
    if found:
        print(
            f"warning: {len(found)} block files were damaged and are computed again (first: '{found[0]}', "
            f"renamed to {DAMAGED})",
            file=sys.stderr,
        )
    return damaged


def generate(
    groups: Sequence[Sequence[Spec]],
    worker: Worker,
    progress: Progress,
    *,
    features: bool,
    shared: bool = False,
    left: Mapping[str, Collection[Block]] | None = None,
) -> None:
    """This worker's share of the images of every spec and, if asked, of their features.

    Group after group; within one, specs take turns block by block, so that their timings compare. shared:
    specs of a group compute what their trajectories have in common once. Then blocks that other workers have
    not begun, from the last one back, so that nobody waits for a slow one or for one that is gone. Finished
    blocks are skipped; where features are asked for and all there, images may have been deleted. left: what
    `unfinished` found of each run_id; nobody asks for the files of other blocks. Files are
    written beside the sampler, and all of them are there when this returns.
    Raises UserError for anything a user can put right, Stopped between two blocks where a signal asked for
    it; finished blocks stay.
    """
    place = Place.of(groups[0][0], worker)
    with ExitStack() as stack:
        stores: dict[str, RunStore] = {}
        claims: dict[str, Claims] = {}
        probes: dict[str, LockProbe] = {}
        keys: dict[str, dict[str, str]] = {}
        for spec in itertools.chain(*groups):
            if spec.run_id not in stores:
                check_task(spec)
                stores[spec.run_id] = RunStore.open(spec)
                keys[spec.run_id] = wanted_keys(spec, place.assets, features=features)
        for folder in dict.fromkeys(store.folder.parent for store in stores.values()):
            here = {run_id: store for run_id, store in stores.items() if store.folder.parent == folder}
            probe = stack.enter_context(working_on(list(here.values()), worker))
            shared_claims = stack.enter_context(contextlib.closing(Claims(folder / LOCKS / "blocks")))
            if any(folders_in(store.folder / "locks") - {store.seeds} for store in here.values()):
                shared_claims.tell_others()  # a launch of other seeds may have blocks of these
            for run_id, store in here.items():
                store.create()
                claims[run_id], probes[run_id] = shared_claims, probe
        writer = stack.enter_context(BlockWriter())
        files = Listings(stores, {run_id: list(names.values()) for run_id, names in keys.items()})
        begun = set()  # blocks of this call, whose files may not be there yet
        failed: dict[str, UserError] = {}  # runs of a tree that came to nothing
        elsewhere: list[Job] = []  # own blocks that somebody else computes
        start = time.monotonic()

        def written(job: Job) -> None:
            claims[job.spec.run_id].release(job.spec.run_id, job.block)
            progress(job.spec, job.block.size)

        def taken(job: Job) -> bool:
            """Whether this process computes the block now."""
            run_id = job.spec.run_id
            if not claims[run_id].take(run_id, job.block):
                return False
            begun.add((run_id, job.block))
            return True

        def there(run_id: str) -> Listing:
            """What there is of a run: a listing of the beginning will do while everybody does their own."""
            if not claims[run_id].others_may_have_done():
                return files.of(run_id, math.inf)
            return files.of(run_id, max(RELIST_S, RELIST_SHARE * (time.monotonic() - start)))

        def apart() -> bool:
            """Called after its own blocks: whether nobody can see which blocks others compute."""
            for each in dict.fromkeys(claims.values()):
                each.tell_others()
            for run_id, probe in probes.items():
                if probe.locks_are_local():
                    claims[run_id].give_up()
            return not all(each.usable for each in claims.values())

        turns = _turns(groups, worker, shared=shared, apart=apart)
        for turn, following in _with_next(turns):
            jobs = []
            for spec, block in (*turn.blocks, *(following.blocks if following else ())):
                wanted = isinstance(spec, SetSpec) and (left is None or block in left[spec.run_id])
                if isinstance(spec, SetSpec) and wanted and not turn.taken_over:
                    read_ahead(spec, block, worker)
            for spec, block in turn.blocks:
                run_id = spec.run_id
                if (
                    (left is not None and block not in left[run_id])
                    or (run_id, block) in begun
                    or run_id in failed
                ):
                    continue
                job = Job(
                    spec, stores[run_id], block, keys[run_id], there(run_id),
                    contested=not claims[run_id].usable, images=not features,
                )  # fmt: skip
                if job.is_done:
                    continue
                probes[run_id].beat()
                if not taken(job):
                    if not turn.taken_over:
                        elsewhere.append(job)
                elif (turn.taken_over or claims[run_id].others_may_have_done()) and job._replace(
                    files=job.store
                ).is_done:
                    claims[run_id].release(run_id, block)  # somebody has finished it since the listing
                else:
                    jobs.append(job)
            for some in [jobs] if turn.together else [[job] for job in jobs]:
                for done, write in finished(some, place):
                    if isinstance(write, UserError):
                        failed[done.spec.run_id] = write
                    else:
                        writer.submit(write, functools.partial(written, done))
            stopping.check()
        # What others took over from here: until it is there, or they are gone.
        pause = WAIT_S
        while True:
            elsewhere = [
                job._replace(files=files.of(job.spec.run_id, pause / 2))
                for job in elsewhere
                if (job.spec.run_id, job.block) not in begun
            ]
            elsewhere = [job for job in elsewhere if not job.is_done]
            if not elsewhere:
                break
            time.sleep(pause)
            pause = min(1.5 * pause, MOST_WAIT_S)
            stopping.check()
            for job in elsewhere:
                job = job._replace(files=files.of(job.spec.run_id, pause / 2))
                if not job.is_done and taken(job):
                    for done, write in finished([job], place):
                        assert not isinstance(write, UserError)  # of a run alone, it is raised
                        writer.submit(write, functools.partial(written, done))
    for error in failed.values():
        raise UserError(f"{error} ({len(failed)} runs failed, the others of their trees are done)")


class _Turn(NamedTuple):
    """Blocks to compute next.

    together: they are the same block of runs that share trajectories. taken_over: they belong to all workers,
    and this one takes those that nobody has begun.
    """

    blocks: list[tuple[Spec, Block]]
    together: bool
    taken_over: bool = False


def _with_next(turns: Iterator[_Turn]) -> Iterator[tuple[_Turn, _Turn | None]]:
    """Each turn with the one after it, None where a worker's own are done."""
    turn = next(turns, None)
    while turn is not None:
        following = next(turns, None)
        yield turn, following if following and not following.taken_over else None
        turn = following


def _turns(
    groups: Sequence[Sequence[Spec]],
    worker: Worker,
    *,
    shared: bool,
    apart: Callable[[], bool] = lambda: False,
) -> Iterator[_Turn]:
    """This worker's own blocks in order, then the blocks of all workers, from the last one back.

    apart: asked after its own, whether nobody can see which blocks others compute; then each worker begins at
    another place with theirs.

    Blocks are dealt to the workers in turn. The next run goes on with the worker after the last one: if every
    run began with the first worker, the last of 1,000 workers would get no block of runs of 500 blocks.
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
        of_group: dict[Block, list[tuple[Spec, Block]]] = {}
        for spec in group:
            for block in blocks_of(spec.seed_range, spec.block_size):
                of_group.setdefault(block, []).append((spec, block))
        whole += [_Turn(of_group[block], tree, taken_over=True) for block in sorted(of_group)]
    if worker.world_size > 1:
        first = len(whole) * worker.rank // worker.world_size if apart() else 0
        yield from reversed(whole[first:] + whole[:first])
