"""SiT's network here beside the plain one in torch: memory and time of loading, and speed, as ratios.

    python scripts/bench_transformers.py --loading --turns 4 --to results/bench/transformers-speed.md
    python scripts/bench_transformers.py --speed --turns 2 --to results/bench/transformers-loading.md

Both ways take turns. Loading is measured in a process of its own, on files of random float32 weights in a
folder for temporary files (5 GB with SiT-XL/2); the plain way is torch.load, or safetensors' load_file, and
load_state_dict. Memory is what the process takes above its imports, as Linux counts it: the pages of a mapped
file are part of it. Evaluations are compared by the processor's time, which other programs hardly change.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from bench import rows_of, spread
from plain_transformer import plain_network
from safetensors.torch import save_file
from torch import Tensor

from erk_bench import load_denoiser
from erk_bench.base.files import write_atomic
from erk_bench.networks.flow import FlowDenoiser
from erk_bench.runs.records import device_name

LOADED = """
import re, sys, time
from pathlib import Path
import torch
from safetensors.torch import load_file
from erk_bench import load_denoiser
from plain_transformer import plain_network

def memory(field):
    return int(re.search(rf"{field}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1000

def here(path, size):
    return load_denoiser(path, family="sit")

def plain(path, size):
    content = load_file(path) if path.endswith(".safetensors") else torch.load(path, map_location="cpu")
    network = plain_network(size)
    network.load_state_dict(content.get("ema", content))
    return network.eval()

way, path, size = sys.argv[1:]
before = memory("VmRSS")
start = time.perf_counter(), time.process_time()
network = globals()[way](path, size)
seconds = time.perf_counter() - start[0], time.process_time() - start[1]
print(memory("VmHWM") - before, memory("VmRSS") - before, *seconds)
"""
WAYS = ("here", "plain")
FORMS = ("torch zip, weights alone", "torch zip, model and ema", "safetensors")


def random_weights(size: str) -> dict[str, Tensor]:
    """Random float32 weights of a plain network, under the published names."""
    torch.manual_seed(0)
    weights = plain_network(size).state_dict()
    for name, value in weights.items():
        if value.ndim == 1:  # no gate is zero
            value.add_(0.1)
        elif name == "pos_embed":
            value.normal_()
    return weights


def write_file(folder: Path, form: str, weights: dict[str, Tensor]) -> Path:
    """A file of a form of FORMS."""
    path = folder / ("weights.safetensors" if form == "safetensors" else "weights.pt")
    if form == "safetensors":
        save_file(weights, path)
    elif form.endswith("alone"):
        torch.save(weights, path)
    else:
        torch.save({"model": {name: value.clone() for name, value in weights.items()}, "ema": weights}, path)
    return path


def loading(size: str, turns: int) -> list[list[str]]:
    """A row for each form of file: its size; peak, rest, seconds and processor's, plain over here."""
    rows = []
    for form in FORMS:
        with tempfile.TemporaryDirectory() as folder:
            # Its bytes are in the system's cache then; and those of others need not be.
            path = write_file(Path(folder), form, random_weights(size))
            found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
            for _, way in itertools.product(range(turns), WAYS):
                done = subprocess.run(
                    [sys.executable, "-c", LOADED, way, str(path), size],
                    env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
                    check=True, capture_output=True, text=True,
                )  # fmt: skip
                found[way].append([float(number) for number in done.stdout.split()])
            ratios = [
                [plain[column] / here[column] for here, plain in zip(*found.values(), strict=True)]
                for column in range(4)
            ]
            row = [size, form, f"{path.stat().st_size / 1e6:,.0f}", *map(spread, ratios)]
            print(row, file=sys.stderr, flush=True)
            rows.append(row)
    return rows


def speed(size: str, batch: int, turns: int) -> list[str]:
    """A row: one evaluation in float32, plain over here."""
    plain = plain_network(size).eval()
    weights = random_weights(size)
    plain.load_state_dict(weights)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_file(weights, path)
        here = load_denoiser(path, family="sit")
    assert isinstance(here, FlowDenoiser)
    del weights
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, here.img_channels, here.img_resolution, here.img_resolution, generator=generator)
    t, classes = torch.linspace(0.2, 0.8, batch), torch.arange(batch) * 100
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with torch.inference_mode():
        expected = plain(x, t, classes)[:, : here.img_channels]
        error = (here.network(x, t, classes) - expected).abs().max() / expected.abs().max()
        both = list(zip(WAYS, (here.network, plain), strict=True))
        for turn in range(turns):
            for way, network in both if turn % 2 else reversed(both):
                start = time.process_time()
                network(x, t, classes)
                seconds[way].append(time.process_time() - start)
    ratios = [plain / here for here, plain in zip(*seconds.values(), strict=True)]
    return [size, str(batch), spread(ratios), f"{error:.0e} of the largest value"]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--loading", nargs="*", default=["sit-xl-2"], help="sizes to load; named none: no loading"
    )
    parser.add_argument(
        "--speed",
        nargs="*",
        default=["sit-s-2", "sit-b-2", "sit-xl-2"],
        help="sizes to run; named none: no speed",
    )
    parser.add_argument("--batch", type=int, default=2, help="samples of an evaluation (2)")
    parser.add_argument("--turns", type=int, default=3, help="of each way (3)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (1)")
    parser.add_argument("--to", type=Path, help="the page; printed alone without it")
    words = parser.parse_args(arguments)
    torch.set_num_threads(words.threads)
    os.environ["OMP_NUM_THREADS"] = str(words.threads)
    text = (
        "# SiT's network here beside the plain one in torch\n\n"
        f"Made by `python scripts/bench_transformers.py {' '.join(arguments)}`: float32, random\n"
        "weights, turns of both ways. Ratios are of a turn, plain over here: median (range); above 1, this\n"
        "program takes less.\n\n"
        f"{device_name(torch.device('cpu'))}, {words.threads} thread(s), Python {platform.python_version()}, "
        f"torch {torch.__version__}\n"
    )
    if words.loading:
        head = ["size", "file", "MB", "peak of memory", "memory after loading", "seconds", "of the processor"]
        rows = [row for size in words.loading for row in loading(size, words.turns)]
        text += "\n## Loading\n\n" + rows_of(head, rows)
    if words.speed:
        head = ["size", "batch", "processor's time", "results differ by"]
        rows = [speed(size, words.batch, words.turns) for size in words.speed]
        text += "\n## An evaluation\n\n" + rows_of(head, rows)
    print(text)
    if words.to:
        write_atomic(words.to, text.encode())


if __name__ == "__main__":
    main(sys.argv[1:])
