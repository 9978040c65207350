"""Times every fast way of this program beside a plain one, in turns, so that a busy machine slows both.

Prints ratios (machines are shared: an absolute time says little), and writes bench-DEVICE.json and
bench-DEVICE.md. With a GPU also images a second and memory of EDM2 sizes beside the measured rate of matrix
products. Usage: python scripts/bench.py [--device cpu] [--only network frechet] [--repeats 5] [--small]
       [--to results/bench]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import scipy
import torch
from bench_gpu import throughput
from bench_images import decoding_rates
from bench_lines import LINES, Line, Scale, digits_nets, erk_share, profile, random_nets

from erk_bench.base.files import write_atomic
from erk_bench.runs.device import set_up_device
from erk_bench.runs.records import device_name


def timed(run: Any, device: torch.device) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measured(line: Line, repeats: int, device: torch.device) -> dict[str, Any]:
    """Seconds of both ways in every turn after a first one, and how their results differ."""
    seconds: dict[str, list[float]] = {"fast": [], "plain": []}
    with torch.inference_mode():
        for turn in range(repeats + 1):
            for name, run in (("fast", line.fast), ("plain", line.plain)):
                found = timed(run, device)
                if turn:  # the first loads and compiles
                    seconds[name].append(found)
        difference = line.difference()
    ratios = [plain / fast for fast, plain in zip(seconds["fast"], seconds["plain"], strict=True)]
    return {
        "line": line.name, "fast": line.ways[0], "plain": line.ways[1], "seconds": seconds,
        "times_faster": ratios, "difference": difference,
    }  # fmt: skip


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Median and range."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def rows_of(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, ["---"] * len(head), *rows])


def report(content: dict[str, Any]) -> str:
    """The Markdown page."""
    text = (
        f"# Benchmark on {content['machine']['device']}\n\n"
        f"Made by `{content['command']}`. Both ways take turns in one process, ratios are of a turn.\n"
        "Machines are shared, so only ratios are given; the seconds behind them are in the JSON file.\n\n"
        + "\n".join(f"- {key}: {value}" for key, value in content["machine"].items())
        + "\n\n"
    )
    head = ("what", "fast way", "compared with", "times faster: median (range)", "results")
    text += rows_of(head, ([*(row[key] for key in ("line", "fast", "plain")), spread(row["times_faster"]),
                            row["difference"]] for row in content["lines"]))  # fmt: skip
    if content["erk_shares"]:
        text += "\n## ERK-Guid's correction as a share of a Heun step\n\n"
        shares = content["erk_shares"].items()
        text += rows_of(
            ("network", "%: median (range)"),
            ([name, spread([100 * value for value in found], ".3f")] for name, found in shares),
        )
    if content["profile"]:
        text += "\n## What a run of the digits table spends its time on\n\n"
        parts = content["profile"].items()
        text += rows_of(("part", "share of the wall time"), ([name, f"{share:.1%}"] for name, share in parts))
    if content["decoding"]:
        text += "\n## Images a second that a set gives to a detector\n\n"
        text += rows_of(list(content["decoding"][0]), (list(row.values()) for row in content["decoding"]))
    if content["throughput"]:
        text += "\n## EDM2 networks, random weights\n\n"
        text += rows_of(
            list(content["throughput"][0]),
            ([str(value) for value in row.values()] for row in content["throughput"]),
        )
    return text


def lines_of(names: Sequence[str], scale: Scale) -> Iterator[Line]:
    for name in names:
        yield from LINES[name](scale)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--only", nargs="+", choices=LINES, help="some of the lines, without the rest of the page"
    )
    parser.add_argument("--repeats", type=int, default=5, help="turns of each way (5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of a CPU (all cores)")
    parser.add_argument("--small", action="store_true", help="only show that everything works")
    parser.add_argument("--to", type=Path, default=Path("results/bench"), help="folder for the page")
    given = sys.argv[1:] if arguments is None else list(arguments)
    words = parser.parse_args(given)
    device = set_up_device(words.device, 0)
    torch.set_num_threads(words.threads)
    scale = Scale(device, words.small)
    lines = []
    for line in lines_of(words.only or list(LINES), scale):
        torch.set_num_threads(words.threads)  # a run in this process sets one
        row = measured(line, words.repeats, device)
        lines.append(row)
        told = f"{row['fast']} against {row['plain']}: {spread(row['times_faster'])} times faster"
        print(f"{row['line']}: {told}; {row['difference']}", flush=True)
    whole = not words.only
    shares: dict[str, list[float]] = {}
    if whole:
        shares["digits, batch 125"] = erk_share(digits_nets(device), 125, device, words.repeats)
        if not words.small:
            sizes = ("xs",) if device.type == "cpu" else ("xs", "s")
            for size in sizes:
                nets = random_nets(f"edm2-img512-{size}", device)
                batch = 2 if device.type == "cpu" else 32
                shares[f"EDM2-{size.upper()}, batch {batch}"] = erk_share(nets, batch, device, words.repeats)
    content = {
        "command": f"python scripts/bench.py --device {words.device} --repeats {words.repeats}",
        "machine": {
            "device": device_name(device), "processor": platform.machine(), "cores": os.cpu_count(),
            "threads": words.threads, "python": platform.python_version(), "torch": torch.__version__,
            "scipy": scipy.__version__,
        },
        "lines": lines,
        "erk_shares": shares,
        "profile": profile(scale) if whole else {},
        "decoding": decoding_rates(sorted({1, words.threads}), small=words.small) if whole else [],
        "throughput": throughput(device, small=words.small) if whole and device.type == "cuda" else [],
    }  # fmt: skip
    to = words.to / f"bench-{words.device}"
    write_atomic(to.with_suffix(".json"), (json.dumps(content, indent=1) + "\n").encode())
    write_atomic(to.with_suffix(".md"), report(content).encode())
    print(f"wrote {to}.md and {to}.json")


if __name__ == "__main__":
    main()
