"""`erk-bench score` beside torch-fidelity's command, from the start of the program to the printed figures.

Both score one folder of PNG files against another, FID, IS and KID by one Inception of random weights, in
turns on as many threads; so a busy machine slows both. Prints the ratio of every turn and the FID of both,
and writes score.md. Usage: python scripts/bench_score.py [--images 500] [--side 64] [--turns 3]
       [--to results/bench]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from erk_bench.base.files import write_atomic
from erk_bench.evaluation.inception import empty_inception
from erk_bench.runs.records import device_name

WEIGHTS = "torch_fidelity/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
KID_SUBSET = 100

PAGE = """# Scoring a folder, beside torch-fidelity

Made by `{command}` on {device}, {threads} threads.

{images} PNG files of {side}x{side} pixels against as many, FID, IS and KID by an Inception of random weights,
from the start of each program to its figures. Both take turns.

| turn | erk-bench, s | torch-fidelity, s | times faster |
| --- | --- | --- | --- |
{rows}
Median: {median:.2f} times as fast. FID by both: {ours:.6g} and {theirs:.6g}.
"""


def write_weights(path: Path) -> None:
    """Random weights that keep the size of activations from layer to layer."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, value in empty_inception().state_dict().items():
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(0)
        elif name.endswith("running_var"):
            weights[name] = torch.ones(value.shape)
        elif ".bn." in name:
            weights[name] = 0.1 * torch.randn(value.shape, generator=generator) + name.endswith("weight")
        else:
            fan_in = max(1, value[0].numel())
            weights[name] = (2 / fan_in) ** 0.5 * torch.randn(value.shape, generator=generator)
    path.parent.mkdir(parents=True)
    torch.save(weights, path)


def write_pictures(folder: Path, count: int, side: int, seed: int) -> None:
    """Smooth pictures with a little noise, each another one."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    for index in range(count):
        coarse = torch.randn(1, 3, side // 8, side // 8, generator=generator)
        soft = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
        noise = torch.randn(1, 3, side, side, generator=generator)
        pixels = ((50 + 5 * seed) * soft + 4 * noise + 128).clip(0, 255).byte()
        Image.fromarray(np.ascontiguousarray(pixels[0].permute(1, 2, 0).numpy())).save(
            folder / f"{index:06d}.png"
        )


def timed(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> tuple[float, str]:
    """Seconds of a program, and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command} failed: {done.stdout}{done.stderr}")
    return time.perf_counter() - start, done.stdout


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=500, help="of each folder (500)")
    parser.add_argument("--side", type=int, default=64, help="pixels (64)")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--to", type=Path, default=Path("results/bench"), help="folder for the page")
    words = parser.parse_args(arguments)
    threads = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_weights(folder / "cache" / WEIGHTS)
        for seed, each in enumerate(("mine", "real")):
            write_pictures(folder / each, words.images, words.side, seed)
        environment = {
            **os.environ, "ERK_BENCH_CACHE": str(folder / "cache"), "ERK_BENCH_LOCK": str(folder / "lock"),
            "OMP_NUM_THREADS": str(threads),
        }  # fmt: skip
        score = [
            sys.executable, "-m", "erk_bench.cli", "score", "mine", "real", "metrics=fid,is,kid",
            "offline=true", f"kid_subset_size={KID_SUBSET}", "workers=1", "device=cpu",
        ]  # fmt: skip
        fidelity = [
            sys.executable, "-m", "torch_fidelity.fidelity", "--cpu", "--input1", "mine", "--input2", "real",
            "--fid", "--isc", "--kid", "--kid-subset-size", str(KID_SUBSET), "--json", "--silent",
            "--feature-extractor-weights-path", str(folder / "cache" / WEIGHTS),
        ]  # fmt: skip
        rows, ratios = "", []
        for turn in range(words.turns):
            out = f"out={folder / f'out{turn}'}"  # nothing is known from an earlier turn
            ours, _ = timed([*score, out], environment, folder)
            theirs, printed = timed(fidelity, environment, folder)
            ratios.append(theirs / ours)
            rows += f"| {turn + 1} | {ours:.1f} | {theirs:.1f} | {ratios[-1]:.2f} |\n"
            print(rows.splitlines()[-1], flush=True)
        (path,) = (folder / "out0").glob("*/records/*.json")
        fid = json.loads(path.read_text())["metrics"]["fid"]["value"]
        found = re.search(r'"frechet_inception_distance":\s*([-+.\deE]+)', printed)
        assert found is not None, printed
    content = {
        "command": f"python scripts/bench_score.py --images {words.images} --side {words.side} "
        f"--turns {words.turns}",
        "device": device_name(torch.device("cpu")), "threads": threads, "images": words.images,
        "side": words.side, "rows": rows, "median": statistics.median(ratios), "ours": fid,
        "theirs": float(found.group(1)),
    }  # fmt: skip
    write_atomic(words.to / "score.md", PAGE.format(**content).encode())
    print(PAGE.format(**content).splitlines()[-1])


if __name__ == "__main__":
    main()
