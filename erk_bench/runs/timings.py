"""How long blocks took, in a file of lines a worker: appended to, never rewritten."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from erk_bench.base.files import writing


class Timing(NamedTuple):
    """Wall seconds of a block's sampling, and the name of the device that did it.

    cells: runs that shared the work; both seconds and evaluations (of single images, counted) are then this
    run's equal part of it. evaluations: None where the run was alone.
    """

    seconds: float
    device: str
    cells: int = 1
    evaluations: float | None = None


def append_timing(path: Path, block: int, timing: Timing) -> None:
    """Append a block's timing to a worker's file."""
    line = "\n" + json.dumps({"block": block, **timing._asdict()})  # the last line may be torn
    with writing(path):
        try:
            file = path.open("a")
        except FileNotFoundError:
            path.parent.mkdir(exist_ok=True)
            file = path.open("a")
        with file:
            file.write(line)


def read_timings(folder: Path) -> dict[int, Timing]:
    """The timings of all workers by block number; damaged lines are skipped."""
    found = {}
    for path in sorted(folder.glob("*.jsonl")):
        with suppress(OSError):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                entry = _timing(line)
                if entry is not None:
                    found[entry[0]] = entry[1]
    return found


def _timing(line: str) -> tuple[int, Timing] | None:
    """Block number and timing of a line; None for what a killed worker or a bad disk left."""
    try:
        entry = json.loads(line)
        block, seconds, cells = entry["block"], entry["seconds"], entry["cells"]
        evaluations = entry["evaluations"]
        numbers = [seconds, *([] if evaluations is None else [evaluations])]
        good = (
            set(entry) == {"block", *Timing._fields}
            and type(block) is int and block >= 0
            and type(cells) is int and cells >= 1
            and isinstance(entry["device"], str)
            and all(type(each) in (int, float) and 0 <= each < math.inf for each in numbers)
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (block, Timing(float(seconds), entry["device"], cells, evaluations)) if good else None
