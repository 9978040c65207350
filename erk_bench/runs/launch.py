"""Runs the workers of a launch: this process alone, one of a launcher's, or several local ones."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, cast

import torch

from erk_bench.base import stopping, terminal
from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError, WorkerLostError
from erk_bench.base.processes import end_with_parent
from erk_bench.base.progress import progress_bar
from erk_bench.runs.blocks import Block, Worker
from erk_bench.runs.cost import work_of
from erk_bench.runs.device import assets_of
from erk_bench.runs.generate import Progress, generate, set_aside_damaged, unfinished
from erk_bench.runs.store import RunStore
from erk_bench.spec import Spec

STALL_S = 1800.0  # rank 0 gives up when the other ranks finish nothing for so long


def compute(
    groups: Sequence[Sequence[Spec]],
    *,
    features: bool,
    title: str,
    shared: bool = False,
    watch: Progress = lambda spec, count: None,
    expect: Callable[[int], None] = lambda images: None,
    left: Mapping[str, Sequence[Block]] | None = None,
) -> bool:
    """Finish all images (and features) of groups of specs; True where the results may be scored.

    Under a launcher (RANK and WORLD_SIZE set) this process does its own share, and what others have not
    begun; rank 0 then waits for their files and alone returns True. Without one, local workers share the
    work.
    shared: specs of a group share their trajectories.
    watch: is called after every finished block.
    expect: is called once, before the first block. It gets the number of images of this process's share;
    the process reports more if it takes over blocks of others.
    left: what `unfinished` found of each run_id, if the caller has looked already.
    """
    specs = [spec for group in groups for spec in group]
    worker = Worker.from_environment()
    assets = assets_of(specs[0])
    if worker is None or worker.rank == 0:
        for spec in specs:
            RunStore.open(spec).sweep()
    damaged = set_aside_damaged(specs, assets, worker or Worker(), features=features)
    if left is None:
        left = {spec.run_id: unfinished(spec, assets, features=features) for spec in specs}
    else:
        left = {spec.run_id: sorted({*left[spec.run_id], *damaged[spec.run_id]}) for spec in specs}
    # Counting imports a solver of the user's own: its mistakes are told before workers start, and a finished
    # run imports nothing.
    cost = {spec.run_id: work_of(spec) for spec in specs if left[spec.run_id]}
    images = {run_id: sum(len(block.seeds) for block in blocks) for run_id, blocks in left.items()}
    num_images = sum(images.values())
    work = round(sum(images[run_id] * cost[run_id] for run_id in cost))
    if worker is None and num_images == 0:
        return True
    share = 1 if worker is None else worker.world_size
    shows = worker is None or worker.rank == 0
    expect(num_images // share)
    with progress_bar(title, num_images // share, work // share, shown=shows) as bar:

        def advance(spec: Spec, count: int) -> None:
            bar(count, round(count * cost.get(spec.run_id, 1)))
            watch(spec, count)

        num_workers = min(default_workers(specs[0]), _num_units(groups, left, shared))
        if worker is not None or num_workers == 1:
            generate(groups, worker or Worker(), advance, features=features, shared=shared, left=left)
        else:
            try:
                _run_local(_Work(groups, features, shared, left), num_workers, advance)
            except WorkerLostError as error:
                if any(
                    unfinished(spec, assets, features=features, among=left[spec.run_id]) for spec in specs
                ):
                    raise
                print(f"warning: {error}. The other workers did its blocks", file=sys.stderr)
    if worker is not None and shows:
        _wait_for_others(specs, assets, features)
    return shows


def _num_units(groups: Sequence[Sequence[Spec]], left: Mapping[str, Sequence[Block]], shared: bool) -> int:
    """Pieces of work that workers can share: blocks, or where trajectories are shared those of a group."""
    if not shared:
        return sum(map(len, left.values()))
    return sum(len({block for spec in group for block in left[spec.run_id]}) for group in groups)


def world_size() -> int:
    """Processes of this launch that share the work."""
    worker = Worker.from_environment()
    return 1 if worker is None else worker.world_size


def reports() -> bool:
    """Whether this process shows results: rank 0 of a launch, or the only one."""
    worker = Worker.from_environment()
    return worker is None or worker.rank == 0


def default_workers(spec: Spec) -> int:
    """Local workers where the spec leaves it open: one per GPU, or per CPU core that we may use."""
    if spec.workers is not None:
        return spec.workers
    if spec.device != "cpu" and torch.cuda.is_available():
        return torch.cuda.device_count()
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Work(NamedTuple):
    groups: Sequence[Sequence[Spec]]
    features: bool
    shared: bool
    left: Mapping[str, Sequence[Block]]


class _Ends(NamedTuple):
    """How workers ended: mistakes that they told, those that were killed or crashed, whether any was asked to
    stop."""

    failures: list[UserError]
    lost: list[str]
    stopped: bool


def _run_local(work: _Work, num_workers: int, advance: Progress) -> None:
    """Spawn workers, pass on their progress, and report the first failure once all have ended."""
    context = multiprocessing.get_context("spawn")
    links: dict[Connection, tuple[Any, Worker]] = {}
    with stopping.held_back():  # workers inherit it, and are deaf until they listen
        for rank in range(num_workers):
            mine, theirs = context.Pipe(duplex=False)
            worker = Worker(rank, num_workers, rank)
            process = context.Process(target=_local_worker, args=(work, worker, theirs), daemon=True)
            process.start()
            theirs.close()
            links[mine] = (process, worker)
    with stopping.passed_on_to([process.pid for process, _ in links.values()]):
        failures, lost, stopped = _follow(links, advance)
    if failures:  # first a mistake, which no repetition mends
        raise min(failures, key=lambda error: error.status != UserError.status)
    if lost:
        raise WorkerLostError(lost[0])
    if stopped:
        raise stopping.Stopped


def _follow(links: dict[Connection, tuple[Any, Worker]], advance: Progress) -> _Ends:
    """Pass on progress until all workers have ended."""
    failures: list[UserError] = []
    lost: list[str] = []
    stopped = False
    while links:
        for ready in wait(list(links)):
            link = cast("Connection", ready)
            process, worker = links[link]
            try:
                message = link.recv()
            except EOFError:
                process.join()
                if process.exitcode == stopping.STATUS:
                    stopped = True
                elif process.exitcode != 0:
                    lost.append(_ending(worker, process.exitcode))
                del links[link]
                continue
            if isinstance(message, UserError):
                failures.append(message)
            else:
                advance(*message)
    return _Ends(failures, lost, stopped)


def _ending(worker: Worker, exitcode: int) -> str:
    how = f"was killed by signal {-exitcode}" if exitcode < 0 else f"ended with status {exitcode}"
    return (
        f"worker {worker.rank} of {worker.world_size} {how}; finished blocks are kept: run the same command "
        "again (if it was killed for memory, with a smaller block_size and another out=...)"
    )


def _local_worker(work: _Work, worker: Worker, link: Connection) -> None:
    end_with_parent()
    stopping.listen()
    terminal.prepare()

    def advance(spec: Spec, count: int) -> None:
        link.send((spec, count))

    try:
        generate(work.groups, worker, advance, features=work.features, shared=work.shared, left=work.left)
    except stopping.Stopped:
        sys.exit(stopping.STATUS)
    except UserError as error:
        link.send(error)
    except KeyboardInterrupt:
        os._exit(stopping.INTERRUPTED)
    except stopping.Terminated:
        os._exit(stopping.TERMINATED)


def _wait_for_others(specs: Sequence[Spec], assets: Assets, features: bool) -> None:
    """Wait until the other ranks' files are there, or nothing new has come for STALL_S.

    The first look is at all blocks: another rank may have set a damaged one aside since the launch began.
    """
    missing = [unfinished(spec, assets, features=features) for spec in specs]
    left, since, pause = sum(map(len, missing)), time.monotonic(), 0.2
    while left:
        stopping.check()
        time.sleep(pause)
        pause = min(1.5 * pause, 5.0)  # thousands of files on a network file system: not too often
        missing = [
            unfinished(spec, assets, features=features, among=blocks)
            for spec, blocks in zip(specs, missing, strict=True)
        ]
        if sum(map(len, missing)) < left:
            left, since = sum(map(len, missing)), time.monotonic()
        elif time.monotonic() - since > STALL_S:
            first = next(blocks[0] for blocks in missing if blocks)
            raise WorkerLostError(
                f"rank 0 is done, but {left} blocks of other ranks are missing (first: {first}) and none "
                f"came in {STALL_S:.0f} s; see those ranks' output, then run the same command again"
            )
