"""Everything that only a GPU can tell, in one command: `make gpu-check`, at most 25 minutes on an H100.

Runs the parts of `gpu_parts.py` one after the other, each in a process of its own with a time limit, and
writes a file for each part that is done, and a page of all of them, to results/bench/gpu-NAME. A part that
has its file is not run again, so that the command can be stopped and started; --again runs it anew.

    .venv/bin/python scripts/gpu_check.py                     # on a machine with a GPU
    .venv/bin/python scripts/gpu_check.py --only noise erk    # some of the parts
    .venv/bin/python scripts/gpu_check.py --small --to FOLDER # on a CPU: that it works
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bench import rows_of
from bench_lines import Scale
from gpu_parts import PARTS, SMALL_PARTS

from erk_bench.base.files import write_atomic
from erk_bench.runs.device import set_up_device
from erk_bench.runs.records import device_name


def machine(device: torch.device) -> dict[str, str]:
    """What the numbers were measured on."""
    found = {
        "device": device_name(device), "processor": platform.machine(), "cores": str(os.cpu_count()),
        "python": platform.python_version(), "torch": torch.__version__,
    }  # fmt: skip
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found |= {
            "memory, GB": f"{card.total_memory / 1e9:.1f}", "processors": str(card.multi_processor_count),
            "CUDA": str(torch.version.cuda), "cuDNN": str(torch.backends.cudnn.version()),
        }  # fmt: skip
    return found


def measure(name: str, scale: Scale, folder: Path) -> None:
    """Run one part here and write its file."""
    start = time.perf_counter()
    rows = PARTS[name].measure(scale)
    seconds = round(time.perf_counter() - start, 1)
    content = {
        "part": name, "about": PARTS[name].about, "rows": rows, "seconds": seconds,
        "machine": machine(scale.device), "small": scale.small,
    }  # fmt: skip
    write_atomic(folder / f"{name}.json", (json.dumps(content, indent=1) + "\n").encode())


def run_part(name: str, small: bool, folder: Path) -> str | None:
    """Run a part in a process of its own; why it failed, if it did."""
    command = [sys.executable, __file__, "--part", name, "--to", str(folder), *(["--small"] if small else [])]
    limit = PARTS[name].limit * (10 if small else 1)  # a busy CPU may be slow, which is no failure
    # A session of its own: pytest and bench.py start processes, which a time limit has to end as well.
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = child.communicate(timeout=limit)
    except BaseException as error:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            return f"stopped after its limit of {limit:g} seconds"
        raise
    return None if child.returncode == 0 else f"ended with status {child.returncode}:\n{output[-2000:]}"


def page(folder: Path) -> str:
    """The page of all parts: those that are done, and why others are not."""
    done: list[dict[str, Any]] = [
        json.loads((folder / f"{name}.json").read_text())
        for name in PARTS
        if (folder / f"{name}.json").is_file()
    ]
    text = "# What a GPU tells\n\nMade by `make gpu-check`; networks have random weights.\n"
    if any(each["small"] for each in done):
        text += "\n**The small form, which shows that everything runs; its numbers say nothing.**\n"
    machines = list(dict.fromkeys(json.dumps(each["machine"]) for each in done))
    for each in machines:
        text += "\n" + "".join(f"- {key}: {value}\n" for key, value in json.loads(each).items())
    if len(machines) > 1:
        text += (
            "\nParts were measured on different machines or versions: delete the folder and run all again.\n"
        )
    for each in done:
        rows: list[dict[str, Any]] = each["rows"]
        text += f"\n## {each['part']}\n\n{each['about']} Took {each['seconds']:g} s.\n\n"
        if rows:
            text += rows_of(list(rows[0]), ([str(value) for value in row.values()] for row in rows))
    for name in PARTS:
        failure = folder / f"{name}.failed.txt"
        if failure.is_file():
            text += f"\n## {name}: not done\n\n```\n{failure.read_text().rstrip()}\n```\n"
    return text


def check(names: Sequence[str], folder: Path, *, small: bool, again: bool, minutes: float) -> int:
    """Run the parts that lack their file and write the page after each; 1 if any failed or is left."""
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    left = []
    for name in names:
        file, failure = folder / f"{name}.json", folder / f"{name}.failed.txt"
        if file.is_file() and not again:
            print(f"{name}: done before", flush=True)
            continue
        if time.monotonic() - start > 60 * minutes:
            left.append(name)
            continue
        print(f"{name}: at most {PARTS[name].limit:g} s ...", end=" ", flush=True)
        failed = run_part(name, small, folder)
        print("done" if failed is None else f"FAILED: {failed}", flush=True)
        if failed is None:
            failure.unlink(missing_ok=True)
        else:
            left.append(name)
            write_atomic(failure, (failed + "\n").encode())
        write_atomic(folder / "page.md", page(folder).encode())
    write_atomic(folder / "page.md", page(folder).encode())
    print(
        f"wrote {folder}/page.md" + (f"; left: {', '.join(left)} (the same command goes on)" if left else "")
    )
    return 1 if left else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, metavar="PART", help=f"some of: {', '.join(PARTS)}"
    )
    parser.add_argument("--again", action="store_true", help="run parts that are done, too")
    parser.add_argument("--minutes", type=float, default=25.0, help="start no part after so many (25)")
    parser.add_argument("--small", action="store_true", help="on a CPU, only show that everything works")
    parser.add_argument("--to", type=Path, help="folder (results/bench/gpu-NAME, of the card's name)")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # run this one in this process
    words = parser.parse_args(arguments)
    if not words.small and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --small shows on a CPU that everything works")
    if words.small and words.to is None:
        parser.error("--small measures nothing; give it a folder that is not kept: --to FOLDER")
    device = set_up_device("cpu" if words.small else "cuda", 0)
    name = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")
    folder = words.to or Path("results/bench") / f"gpu-{name}"
    if words.part:
        measure(words.part, Scale(device, words.small), folder)
        return 0
    names = words.only or (SMALL_PARTS if words.small else PARTS)
    return check(list(names), folder, small=words.small, again=words.again, minutes=words.minutes)


if __name__ == "__main__":
    sys.exit(main())
