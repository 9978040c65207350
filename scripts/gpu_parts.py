"""What `gpu_check.py` measures: each part gives rows of a table, from networks of random weights.

`Scale.small` is for a CPU: every part runs in seconds and says nothing but that it works.
"""

from __future__ import annotations

import functools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from bench_gpu import rate, throughput
from bench_lines import Nets, Scale, erk_share
from gpu_nets import decoder, detector, network
from torch import Tensor, nn

from erk_bench.commands.compose import run_spec
from erk_bench.networks.compiled import CompiledDenoiser
from erk_bench.networks.sizes import CHANNELS
from erk_bench.runs.cost import parts_of
from erk_bench.runs.numerics import NUMERICS, switch
from erk_bench.sampling.philox import BLOCK, EmulatedGenerator
from erk_bench.sampling.sample import sample
from erk_bench.sampling.seeds import SeededDraws, initial

Rows = list[dict[str, Any]]

ROOT = Path(__file__).parents[1]
DETECTORS = ("inception", "vgg16", "dinov2_torch")


class Part(NamedTuple):
    """measure: gives the rows. limit: seconds after which it is stopped. about: a sentence for the page."""

    measure: Callable[[Scale], Rows]
    limit: float
    about: str


def peak_memory(device: torch.device, run: Callable[[], object]) -> str:
    """GB that torch held at most while `run` ran; "" on a CPU."""
    if device.type != "cuda":
        run()
        return ""
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return f"{torch.cuda.max_memory_allocated(device) / 1e9:.2f}"


def gpu_tests(scale: Scale) -> Rows:
    """The tests that need a card."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "tests/test_gpu.py",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    counts = {
        word: number for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)
    }
    failed = re.findall(r"^(?:FAILED|ERROR) (.*)", done.stdout, re.MULTILINE)
    row = {name: counts.get(name, "0") for name in ("passed", "failed", "skipped", "error")}
    return [row | {"failures": "; ".join(failed)}]


def noise(scale: Scale) -> Rows:
    """Emulated against real noise and classes, at shapes within the card and beyond it."""
    device, on_card = scale.device, scale.device.type == "cuda"
    blocks = 16
    if on_card:
        card = torch.cuda.get_device_properties(device)
        blocks = card.multi_processor_count * (card.max_threads_per_multi_processor // BLOCK)
    rows: Rows = []
    for shape in ((4, 64, 64),) if scale.small else ((4, 64, 64), (3, 64, 64), (3, 512, 512)):
        for dtype in (torch.float32, torch.float64):
            gaps, wrong, seconds = [], 0, []
            for seed in (0, 42, 100_000, 2**32 - 1):
                emulated = EmulatedGenerator(seed, blocks)
                generator = (
                    torch.Generator(device).manual_seed(seed) if on_card else EmulatedGenerator(seed, blocks)
                )
                for _ in range(2):  # the second draw begins where the first ended
                    start = time.perf_counter()
                    made = emulated.normal(shape, dtype)
                    seconds.append(time.perf_counter() - start)
                    number = emulated.integers(1000)
                    if isinstance(generator, EmulatedGenerator):
                        real, other = generator.normal(shape, dtype), generator.integers(1000)
                    else:
                        real = torch.randn(shape, generator=generator, device=device, dtype=dtype).cpu()
                        other = torch.randint(1000, (1,), generator=generator, device=device).cpu()
                    gaps.append((made - real).abs().flatten())
                    wrong += int(number != other)
            gap = torch.cat(gaps).double()
            rows.append(
                {
                    "shape": "x".join(map(str, shape)), "dtype": str(dtype).removeprefix("torch."),
                    "largest difference": f"{gap.max():.1e}",
                    "share above 1e-6": f"{(gap > 1e-6).double().mean():.1e}",
                    "classes that differ": f"{wrong} of {len(gaps)}",
                    "emulated, ms": f"{1000 * statistics.median(seconds):.2f}",
                    "compared with": "the card" if on_card else "itself, for want of a card",
                }
            )  # fmt: skip
    return rows


def throughput_of(size: str, compiled: bool, scale: Scale) -> Rows:
    """Evaluations a second of one network, at several batches."""
    if scale.small:
        return throughput(scale.device, ("edm-cifar10-32x32-cond-vp",), (1,), torch.float32, small=True)
    return throughput(scale.device, (f"edm2-img512-{size}",), (8, 32, 128), compiled=(compiled,))


def numerics(scale: Scale) -> Rows:
    """The same seeds from noise to images in each of the three."""
    device = scale.device
    images: dict[str, Tensor] = {}
    rows: Rows = []
    count, steps = scale.pick(32, 2), scale.pick(8, 3)
    for name, row in NUMERICS.items():
        switch(row)
        net = network("s", scale, published=row.published_attention)
        shape = (net.img_channels, net.img_resolution, net.img_resolution)
        draws, classes = initial(SeededDraws(range(count), "cuda_emulated"), shape, net.num_classes)
        x = draws.to(device)
        labels = (
            None if classes is None else nn.functional.one_hot(classes, net.num_classes).float().to(device)
        )
        run_net = CompiledDenoiser(net) if row.compiled and device.type == "cuda" else net
        decode = decoder(scale, row)

        run = functools.partial(sample, run_net, x, labels, num_steps=steps, w_stiff=1.0, w_con=0.1)
        with torch.inference_mode():
            memory = peak_memory(device, lambda: decode(run()))  # noqa: B023 - used at once
            sampling = rate(run, device, 0.01 if scale.small else 3.0)
            latents = run()
            decoding = rate(lambda: decode(latents), device, 0.01 if scale.small else 3.0)  # noqa: B023
            images[name] = decode(latents).cpu()
        difference = (images[name].int() - images["strict"].int()).abs().double()
        changed = difference > 0
        rows.append(
            {
                "numerics": name, "sampling, images/s": f"{sampling * count:.4g}",
                "decoding, images/s": f"{decoding * count:.4g}",
                "images that differ from strict": f"{changed.flatten(1).any(1).double().mean():.1%}",
                "bytes": f"{changed.double().mean():.2%}", "mean, levels": f"{difference.mean():.3f}",
                "largest": int(difference.max()), "peak GB": memory,
            }
        )  # fmt: skip
    switch(NUMERICS["strict"])
    return rows


def erk_overhead(scale: Scale) -> Rows:
    """ERK-Guid's correction beside a Heun step, and whole sampling with it beside without."""
    rows: Rows = []
    device = scale.device
    for size in ("xs",) if scale.small else ("xs", "s"):
        batch, steps = scale.pick(32, 2), scale.pick(8, 4)
        net = network(size, scale)
        x = torch.randn(batch, net.img_channels, net.img_resolution, net.img_resolution, device=device)
        seconds: dict[float, list[float]] = {0.0: [], 1.0: []}
        for turn in range(scale.pick(6, 2)):
            for w_stiff, found in seconds.items():
                start = time.perf_counter()
                sample(net, x, None, num_steps=steps, w_stiff=w_stiff, w_con=0.1)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if turn:  # the first warms up
                    found.append(time.perf_counter() - start)
        shares = erk_share(Nets(net, net), batch, device, scale.pick(5, 1))
        longer = statistics.median(a / b for a, b in zip(seconds[1.0], seconds[0.0], strict=True)) - 1
        rows.append(
            {
                "network": f"EDM2-{size.upper()}", "batch": batch,
                "correction, of a Heun step": f"{statistics.median(shares):.3%}",
                f"sampling of {steps} steps takes longer by": f"{longer:.2%}",
            }
        )  # fmt: skip
    return rows


def counted() -> dict[str, int]:
    """FLOPs of an image by what `rates` measures."""
    parts = parts_of(run_spec(["track=imagenet512", "metrics.names=[fid,fd_dinov2,precision]"], fetch=False))
    found = {"VAE decoder": parts.decoder, **parts.detectors}
    return {name: each.flops for name, each in found.items() if each is not None}


def rates(scale: Scale) -> Rows:
    """Images a second of decoder and detectors, by numerics."""
    device = scale.device
    flops = {} if scale.small else counted()
    rows: Rows = []

    def add(part: str, name: str, batch: int, run: Callable[[], object]) -> None:
        with torch.inference_mode():
            memory = peak_memory(device, run)
            per_s = rate(run, device, 0.01 if scale.small else 2.0) * batch
        rows.append(
            {
                "part": part, "numerics": name, "batch": batch, "images/s": f"{per_s:.4g}",
                "TFLOP/s": f"{per_s * flops.get(part, 0) / 1e12:.3g}", "peak GB": memory,
            }
        )  # fmt: skip

    side = scale.pick(64, 4)
    for name, row in NUMERICS.items():
        switch(row)
        batch = scale.pick(32, 2)
        latents = torch.randn(batch, 4, side, side, device=device) / 2
        decode = decoder(scale, row)
        add("VAE decoder", name, batch, functools.partial(decode, latents))
        if name == "published" or (scale.small and name != "strict"):
            continue  # its DINOv2 is that of strict, its Inception and VGG-16 those of fast
        images = torch.randint(
            256, (scale.pick(50, 1), 3, 8 * side, 8 * side), dtype=torch.uint8, device=device
        )
        for each in DETECTORS[:1] if scale.small else DETECTORS:
            add(each, name, len(images), functools.partial(detector(each, device), images))
    switch(NUMERICS["strict"])
    return rows


def bench_line(name: str, scale: Scale) -> Rows:
    """One line of `make bench`."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, str(ROOT / "scripts" / "bench.py"), "--device", scale.device.type, "--only", name,
            "--repeats", "1" if scale.small else "3", "--to", folder, *(["--small"] if scale.small else []),
        ]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        content = json.loads(Path(folder, f"bench-{scale.device.type}.json").read_text())
    return [
        {
            "what": row["line"], "fast way": row["fast"], "compared with": row["plain"],
            "times faster": f"{statistics.median(row['times_faster']):.2f}", "results": row["difference"],
        }
        for row in content["lines"]
    ]  # fmt: skip


# In the order in which they run; all limits together are less than 25 minutes.
PARTS: dict[str, Part] = {
    "tests": Part(gpu_tests, 180, "`pytest -m gpu`."),
    "noise": Part(
        noise, 60, "`draw_device=cuda_emulated` against the card's own generator: two draws of four seeds."
    ),
    **{
        f"throughput-{size}": Part(
            functools.partial(throughput_of, size, False), 35,
            f"One evaluation of EDM2-{size.upper()}, random weights, float16.",
        )
        for size in CHANNELS
    },
    **{
        f"compiled-{size}": Part(
            functools.partial(throughput_of, size, True), 90, f"The same of EDM2-{size.upper()}, compiled."
        )
        for size in ("xs", "s", "xxl")
    },
    "numerics": Part(
        numerics, 150,
        "EDM2-S and the VAE, random weights, 8 steps with ERK-Guid, the same seeds in each `numerics`.",
    ),
    "erk": Part(erk_overhead, 60, "What ERK-Guid costs."),
    "rates": Part(rates, 120, "Decoder and detectors, random weights."),
    **{
        f"bench-{name}": Part(functools.partial(bench_line, name), limit, f"`make bench`, line {name}.")
        for name, limit in (
            ("network", 120), ("arithmetic", 30), ("sampling", 60), ("vae", 90), ("detectors", 60),
        )
    },
}  # fmt: skip
SMALL_PARTS = ("tests", "noise", "throughput-xs", "numerics", "erk", "rates", "bench-arithmetic")
