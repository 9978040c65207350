"""The pipeline on one page: Spec -> blocks of images -> features. `score` makes the record of them.

Each stage can be stopped, resumed and run again alone; stages meet in the files of a RunStore.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from erk_bench.base import stopping
from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.runs.blocks import Block, Worker, blocks_of
from erk_bench.runs.checks import check_task
from erk_bench.runs.claims import Claims
from erk_bench.runs.device import Place, assets_of
from erk_bench.runs.finish_block import Job, detector_keys, finished, is_kept, wants_images
from erk_bench.runs.launches import LOCKS, working_on
from erk_bench.runs.listing import Listing
from erk_bench.runs.sample_block import is_tree
from erk_bench.runs.store import DAMAGED, RunStore
from erk_bench.runs.writer import BlockWriter
from erk_bench.spec import Spec

ASK_AGAIN_S = 0.2  # after a block that another process computes

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
    keys = list(detector_keys(spec, assets or assets_of(spec)).values()) if features else []
    files = Listing(RunStore.open(spec), keys)
    images = wants_images(spec) or not features
    return [
        block
        for block in blocks
        if not all(files.has_features(key, block) for key in keys)
        or (images and not is_kept(spec, files, block))
        or (spec.samples != "none" and files.lost_images(block))
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
        keys = list(detector_keys(spec, assets).values()) if features else []
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
        keys: dict[str, dict[str, str]] = {}
        for spec in itertools.chain(*groups):
            if spec.run_id not in stores:
                check_task(spec)
                stores[spec.run_id] = RunStore.open(spec)
                keys[spec.run_id] = detector_keys(spec, place.assets) if features else {}
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
                    (left is not None and block not in left[run_id])
                    or (run_id, block) in begun
                    or run_id in failed
                    or (turn.taken_over and not claims[run_id].usable)
                ):
                    continue
                job = Job(spec, stores[run_id], block, keys[run_id])
                if job.is_done:
                    continue
                if claims[run_id].take(run_id, block):
                    begun.add((run_id, block))
                    jobs.append(job)
                elif not turn.taken_over:
                    elsewhere.append(job)
            for some in [jobs] if turn.together else [[job] for job in jobs]:
                for done, write in finished(some, place):
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


def _turns(groups: Sequence[Sequence[Spec]], worker: Worker, *, shared: bool) -> Iterator[_Turn]:
    """This worker's own blocks in order, then the blocks of all workers, from the last one back.

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
        yield from reversed(whole)
