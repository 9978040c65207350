"""Kills commands at random moments, damages their files, starts them again, and compares every byte.

    .venv/bin/python scripts/kills.py [--kills N] [--seed N] [--to results/bench/kills.md]

Each case is a digits run or a grid with shared trajectories. It is stopped by SIGKILL, SIGTERM or SIGUSR2 at
moments between its first instruction and its end, started again with another number of workers, and finished.
Its block files and records are then compared with those of a run that nobody disturbed. The exit status is 1
where anything differs, a process or a temporary file is left, or a bit that flipped was not noticed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SETTINGS = ["schedule.num_steps=8", "block_size=8", "device=cpu", "metrics.num_groups=5",
            "metrics.names=[fd_digits]"]  # fmt: skip
GRID = """
name: kills
title: Cells that share their trajectories
caption: Small.
base: [correction=erk_guid]
axes: {correction.w_stiff: [0.5, 1.0], correction.w_con: [0.3, 0.6, 0.9]}
panels: [fd_digits]
"""
TOKEN = "ERK_BENCH_KILLS"  # in the environment of every process of a case
SIGNALS = {signal.SIGKILL: {-9, 137}, signal.SIGTERM: {143}, signal.SIGUSR2: {75}}
TO_END_S = 20.0  # in which processes end with the one that was killed
VARYING = ("created", "seconds_per_block", "environment")  # of a record


@dataclass
class Case:
    """One case with what was seen. words: the command without out= and workers=."""

    name: str
    words: list[str]
    launcher: list[str]
    kills: int = 0
    early: int = 0  # of these, before the first block file
    wrong_status: int = 0
    changed: int = 0  # finished files that were not as in the undisturbed run, after any kill
    orphans: int = 0
    left: int = 0  # temporary files after the last launch
    blocks: int = 0
    equal: str = ""


def contents(out: Path) -> dict[str, bytes]:
    """All block files by name."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.safetensors"))}


def records(out: Path) -> dict[str, Any]:
    """All records by name, without what may vary."""
    found = {}
    for path in sorted(out.glob("*/records/*.json")):
        content = json.loads(path.read_text())
        content["spec"].update(out="", workers=None)
        found[str(path.relative_to(out))] = {
            key: value for key, value in content.items() if key not in VARYING
        }
    return found


def alive(token: str) -> list[int]:
    """Processes that carry the token."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and f"{TOKEN}={token}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def start(case: Case, out: Path, workers: int, token: str) -> subprocess.Popen[bytes]:
    """Start the case with that many workers, or ranks of torchrun."""
    words = [*case.words, f"out={out}"]
    if case.launcher:
        command = [*case.launcher, f"--nproc-per-node={workers}", "-m", "erk_bench.cli", *words]
    else:
        command = ["-m", "erk_bench.cli", *words, f"workers={workers}"]
    variables = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    return subprocess.Popen(
        [sys.executable, *command],
        env={**variables, TOKEN: token},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def finish(case: Case, out: Path, workers: int) -> float:
    """Run to the end; the seconds it took."""
    begin = time.monotonic()
    status = start(case, out, workers, uuid.uuid4().hex).wait()
    if status:
        raise SystemExit(f"{case.name}: the launch that should finish ended with status {status}")
    return time.monotonic() - begin


def kill_at_random(
    case: Case, out: Path, expected: dict[str, bytes], seconds: float, draw: random.Random
) -> None:
    """One launch that is stopped somewhere, and what is seen afterwards."""
    token = uuid.uuid4().hex
    before = len(contents(out))
    process = start(case, out, draw.choice([1, 2, 3]), token)
    time.sleep(draw.uniform(0.0, seconds))
    # torchrun knows nothing of SIGUSR2, and ends its ranks itself where SIGTERM is asked of it.
    number = signal.SIGKILL if case.launcher else draw.choice(list(SIGNALS))
    ended = process.poll() is not None
    process.send_signal(number)
    status = process.wait()
    deadline = time.monotonic() + TO_END_S
    while (left := alive(token)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for orphan in left:
        os.kill(orphan, signal.SIGKILL)
    found = contents(out)
    case.kills += not ended
    case.early += not ended and len(found) == before == 0
    # A signal may meet Python before the command's first line, or after its last one.
    good = SIGNALS[number] | {0, -number, 1 if number == signal.SIGTERM and case.launcher else 0}
    case.wrong_status += not ended and status not in good
    case.orphans += len(left)
    case.changed += sum(expected.get(name) != raw for name, raw in found.items())


def conclude(case: Case, out: Path, plain: Path, expected: dict[str, bytes], workers: int) -> None:
    """Finish, and compare."""
    finish(case, out, workers)
    case.blocks = len(expected)
    case.left = len(list(out.rglob("*.tmp")))
    same = contents(out) == expected and records(out) == records(plain)
    case.equal = "yes" if same else "NO"


def cut(raw: bytes, draw: random.Random) -> bytes:
    return raw[: draw.randrange(len(raw))]


def flip(raw: bytes, draw: random.Random) -> bytes:
    bit = draw.randrange(8 * len(raw))
    return raw[: bit // 8] + bytes([raw[bit // 8] ^ (1 << bit % 8)]) + raw[bit // 8 + 1 :]


def damaged(
    case: Case, out: Path, damage: Callable[[bytes, random.Random], bytes], count: int, draw: random.Random
) -> int:
    """Damage block files of a finished run and remove its record; how many the next launch did not notice."""
    finish(case, out, 2)
    chosen = draw.sample(sorted(out.rglob("*.safetensors")), count)
    for path in chosen:
        path.write_bytes(damage(path.read_bytes(), draw))
    for path in out.glob("*/records/*.json"):
        path.unlink()
    finish(case, out, 1)
    return sum(not path.with_suffix(".damaged").is_file() for path in chosen)


def table(cases: Sequence[Case], damages: Sequence[tuple[str, int, int, str]], words: str) -> str:
    """Markdown."""
    lines = [
        "# Kills, damage and restarts",
        "",
        f"Made by `{words}`.",
        "",
        "SIGKILL, SIGTERM or SIGUSR2 (of torchrun: SIGKILL to its agent alone) at random moments, then a",
        "start with another number of workers; compared with a run that nobody disturbed.",
        "",
        "| case | kills | before the first block | wrong exit status | finished files changed | orphans | "
        "temporary files left | block files | bytes and records equal |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {case.name} | {case.kills} | {case.early} | {case.wrong_status} | {case.changed} | "
        f"{case.orphans} | {case.left} | {case.blocks} | {case.equal} |"
        for case in cases
    ]
    lines += [
        "",
        "Damage to finished block files, with the record removed, then one launch:",
        "",
        "| damage | files | not noticed | bytes and records equal after one launch |",
        "|---|---|---|---|",
        *(f"| {name} | {count} | {missed} | {equal} |" for name, count, missed, equal in damages),
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=24, help="kills of each case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--images", type=int, default=400, help="images of a run; a cell of the grid: a quarter"
    )
    parser.add_argument("--to", type=Path, default=None, help="also write the Markdown here")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    seeds, few = f"seeds=0-{options.images - 1}", f"seeds=0-{options.images // 4 - 1}"
    with tempfile.TemporaryDirectory(prefix="erk-bench-kills-") as name:
        folder = Path(name)
        (folder / "kills.yaml").write_text(GRID)
        run = ["run", *SETTINGS, seeds]
        torchrun = ["-m", "torch.distributed.run", "--master-port=0"]
        shared = ["grid", f"grid={folder / 'kills.yaml'}", *SETTINGS, few, "views=false"]
        cases = [
            Case("run", run, []),
            Case("run under torchrun", run, torchrun),
            Case("grid, shared trajectories", shared, []),
        ]
        plain: dict[str, tuple[Path, dict[str, bytes], float]] = {}
        for number, case in enumerate(cases):
            out = folder / f"plain-{case.words[0]}"
            if case.words[0] not in plain:
                seconds = finish(Case(case.name, case.words, []), out, 1)
                plain[case.words[0]] = (out, contents(out), seconds)
            undisturbed, expected, seconds = plain[case.words[0]]
            disturbed = folder / f"disturbed-{number}"
            for _ in range(options.kills):
                kill_at_random(case, disturbed, expected, 0.8 * seconds, draw)
            conclude(case, disturbed, undisturbed, expected, draw.choice([1, 2, 3]))
        damages = []
        undisturbed, expected, _ = plain["run"]
        for name, damage in (("cut at a random byte", cut), ("one random bit flipped", flip)):
            out = folder / damage.__name__
            count = min(10, len(expected))
            missed = damaged(cases[0], out, damage, count, draw)
            same = contents(out) == expected and records(out) == records(undisturbed)
            damages.append((name, count, missed, "yes" if same else "NO"))
    words = f"--kills {options.kills} --images {options.images} --seed {options.seed}"
    shown = f".venv/bin/python scripts/kills.py {words}"
    text = table(cases, damages, shown)
    print(text)
    if options.to is not None:
        options.to.write_text(text)
    bad = sum(
        case.wrong_status + case.changed + case.orphans + case.left + (case.equal != "yes") for case in cases
    )
    bad += sum(missed + (equal != "yes") for _, _, missed, equal in damages)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
