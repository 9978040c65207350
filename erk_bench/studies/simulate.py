"""How long many workers would take: a simulation of rules by which blocks of seeds find a worker.

Workers differ in speed, a few are much slower, and nodes of workers are preempted: the blocks under way on a
node are lost and its workers pause. Times are in hours.
"""

from __future__ import annotations

import bisect
import heapq
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

NODE = 8  # workers that are preempted together


class Conditions(NamedTuple):
    """speed_spread: standard deviation of log speed. slow_share, slow_speed: workers that are slower, and how
    fast they are. mean_uptime: of a node between preemptions. pause: until a preempted node is back. lease:
    until others may take a block whose worker is gone."""

    speed_spread: float = 0.05
    slow_share: float = 0.02
    slow_speed: float = 0.5
    mean_uptime: float = 24.0
    pause: float = 0.2
    lease: float = 0.5


class Outcome(NamedTuple):
    """makespan: until the last block is done. idle, lost: shares of workers times makespan, spent waiting
    (pauses included) and on blocks that were lost."""

    makespan: float
    idle: float
    lost: float


class _Fleet:
    """Speeds of workers, and when their nodes are preempted: the same for every rule."""

    def __init__(self, workers: int, conditions: Conditions, seed: int) -> None:
        self.conditions = conditions
        generator = random.Random(seed)
        self.speeds = [
            generator.lognormvariate(0, conditions.speed_spread)
            * (conditions.slow_speed if generator.random() < conditions.slow_share else 1)
            for _ in range(workers)
        ]
        self._sources = [random.Random(generator.random()) for _ in range(-(-workers // NODE))]
        self._stops: list[list[float]] = [[] for _ in self._sources]

    def stop_after(self, worker: int, time: float) -> float:
        """When the worker's node is next preempted."""
        node = worker // NODE
        stops = self._stops[node]
        while not stops or stops[-1] <= time:
            begun = stops[-1] + self.conditions.pause if stops else 0.0
            stops.append(begun + self._sources[node].expovariate(1 / self.conditions.mean_uptime))
        return stops[bisect.bisect_right(stops, time)]

    def work(self, worker: int, start: float, hours: float) -> tuple[float, float | None]:
        """When a block begun at `start` ends, or (start of the pause, its end) where it is lost."""
        end = start + hours / self.speeds[worker]
        stop = self.stop_after(worker, start)
        return (end, None) if end <= stop else (stop, stop + self.conditions.pause)

    def work_all(self, worker: int, start: float, blocks: Sequence[float]) -> tuple[float, float]:
        """When the worker has done all of these blocks, and the time that went into lost ones."""
        time, lost = start, 0.0
        for hours in blocks:
            while True:
                end, back = self.work(worker, time, hours)
                if back is None:
                    time = end
                    break
                lost += end - time
                time = back
        return time, lost


# A rule: (rows of block durations at speed 1, fleet) -> (makespan, time lost).
Rule = Callable[[Sequence[Sequence[float]], _Fleet], tuple[float, float]]


def _fixed(rows: Sequence[Sequence[float]], fleet: _Fleet) -> tuple[float, float]:
    """Block i of every row belongs to worker i modulo their number."""
    count = len(fleet.speeds)
    shares = [[hours for row in rows for hours in row[worker::count]] for worker in range(count)]
    return _all_of(shares, fleet)


def _dealt(rows: Sequence[Sequence[float]], fleet: _Fleet) -> tuple[float, float]:
    """Blocks are dealt like cards, and each row goes on where the one before ended."""
    blocks = [hours for row in rows for hours in row]
    count = len(fleet.speeds)
    return _all_of([blocks[worker::count] for worker in range(count)], fleet)


def _all_of(shares: Sequence[Sequence[float]], fleet: _Fleet) -> tuple[float, float]:
    ends = [fleet.work_all(worker, 0.0, share) for worker, share in enumerate(shares)]
    return max(end for end, _ in ends), sum(lost for _, lost in ends)


def _tasks(rows: Sequence[Sequence[float]], fleet: _Fleet) -> tuple[float, float]:
    """A job array: each row is a task of one node, and free nodes take the next task."""
    count = len(fleet.speeds)
    nodes = [list(range(first, min(first + NODE, count))) for first in range(0, count, NODE)]
    free = [(0.0, number) for number in range(len(nodes))]
    heapq.heapify(free)
    last, lost = 0.0, 0.0
    for row in rows:
        start, number = heapq.heappop(free)
        workers = nodes[number]
        ends = [
            fleet.work_all(worker, start, row[rank :: len(workers)]) for rank, worker in enumerate(workers)
        ]
        end = max(each for each, _ in ends)
        lost += sum(each for _, each in ends)
        last = max(last, end)
        heapq.heappush(free, (end, number))
    return last, lost


def _leases(rows: Sequence[Sequence[float]], fleet: _Fleet) -> tuple[float, float]:
    """Whoever is free takes the next block; one whose worker is gone is free again after its lease."""
    waiting = [(0.0, number, hours) for number, hours in enumerate(hours for row in rows for hours in row)]
    free = [(0.0, worker) for worker in range(len(fleet.speeds))]
    heapq.heapify(free)
    last, lost = 0.0, 0.0
    while waiting:
        time, worker = heapq.heappop(free)
        available, number, hours = heapq.heappop(waiting)
        start = max(time, available)
        end, back = fleet.work(worker, start, hours)
        if back is None:
            last = max(last, end)
            heapq.heappush(free, (end, worker))
        else:
            lost += end - start
            heapq.heappush(waiting, (end + fleet.conditions.lease, number, hours))
            heapq.heappush(free, (back, worker))
    return last, lost


def _taken_over(rows: Sequence[Sequence[float]], fleet: _Fleet) -> tuple[float, float]:
    """Dealt; a worker that has done its own takes over what nobody has begun, from the last block back.

    A block whose worker is gone is anybody's at once, and a worker that finds nothing ends.
    """
    blocks = [hours for row in rows for hours in row]
    count = len(fleet.speeds)
    begun = [False] * len(blocks)
    own, back_from, left = list(range(count)), len(blocks) - 1, len(blocks)
    given_up: list[tuple[float, int]] = []
    free = [(0.0, worker) for worker in range(count)]
    last, lost = 0.0, 0.0
    while left:
        time, worker = heapq.heappop(free)
        while own[worker] < len(blocks) and begun[own[worker]]:
            own[worker] += count
        while back_from >= 0 and begun[back_from]:
            back_from -= 1
        if own[worker] < len(blocks):
            number = own[worker]
        elif given_up and given_up[0][0] <= time:
            number = heapq.heappop(given_up)[1]
        elif back_from >= 0:
            number = back_from
        else:
            continue
        begun[number] = True
        end, back = fleet.work(worker, time, blocks[number])
        if back is None:
            last, left = max(last, end), left - 1
            heapq.heappush(free, (end, worker))
        else:
            lost += end - time
            heapq.heappush(given_up, (end, number))
            heapq.heappush(free, (back, worker))
    return last, lost


RULES: dict[str, Rule] = {
    "dealt and taken over (erk-bench)": _taken_over,
    "dealt": _dealt,
    "fixed (each row from worker 0)": _fixed,
    "tasks (a row for each node)": _tasks,
    "leases (one queue for all)": _leases,
}


def simulate(
    rows: Sequence[Sequence[float]], workers: int, rule: str, conditions: Conditions, seed: int = 0
) -> Outcome:
    """rows: durations of each row's blocks at speed 1. rule: key of RULES."""
    fleet = _Fleet(workers, conditions, seed)
    makespan, lost = RULES[rule](rows, fleet)
    # What a block takes depends on who does it; busy time is counted at mean speed.
    useful = sum(map(sum, rows)) / (sum(fleet.speeds) / workers)
    available = workers * makespan
    return Outcome(makespan, max(0.0, 1 - (useful + lost) / available), lost / available)


def shortest(rows: Sequence[Sequence[float]], workers: int, conditions: Conditions, seed: int = 0) -> float:
    """Time of the same workers if nothing were lost or idle."""
    return sum(map(sum, rows)) / sum(_Fleet(workers, conditions, seed).speeds)
