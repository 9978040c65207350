"""On the pretended GPU: everything computes what a CPU does, no devices mix, and sampling does not wait."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from erk_bench.base.assets import Assets
from erk_bench.evaluation.detectors import DIGITS_WEIGHTS, load_digits_detector
from erk_bench.evaluation.dinov2 import load_dinov2_pil, load_dinov2_torch
from erk_bench.evaluation.extract import Extract
from erk_bench.evaluation.frechet import FeatureSums, FrechetTarget, distances_without_groups
from erk_bench.evaluation.inception import load_inception, load_vgg16
from erk_bench.networks.checkpoint import build_denoiser, read_checkpoint
from erk_bench.networks.vae import load_vae
from erk_bench.runs.blocks import Worker
from erk_bench.runs.generate import generate
from erk_bench.runs.score import score
from erk_bench.runs.store import RunStore
from erk_bench.sampling.corrections import CORRECTIONS
from erk_bench.sampling.dpm_solver_v3 import ModelStatistics
from erk_bench.sampling.guidance import GUIDANCES
from erk_bench.sampling.sample import draw, sample
from erk_bench.sampling.schedules import SCHEDULES
from erk_bench.sampling.seeds import SeededDraws
from erk_bench.sampling.shared import sample_grid
from erk_bench.sampling.solvers import SOLVERS
from erk_bench.spec import RunSpec
from tests.assets import write_dinov2, write_inception, write_vae, write_vgg16
from tests.conftest import golden_net, golden_path
from tests.pretend_gpu import PretendGpu, Wait

MakeSpec = Callable[..., RunSpec]


class Toy:
    """A denoiser of few operations that knows ten classes."""

    img_channels, img_resolution, num_classes = 2, 4, 10

    def __init__(self, spread: float = 0.7) -> None:
        self.spread = spread

    def __call__(self, x: Tensor, sigma: Tensor, condition: Tensor | None) -> Tensor:
        level = sigma.reshape(-1, 1, 1, 1)
        shift = 0 if condition is None else 0.01 * condition.reshape(-1, 1, 1, 1)
        return torch.tanh(x / level.square().add(1).sqrt() + shift) * self.spread


def start(batch: int = 3) -> tuple[Tensor, Tensor]:
    """Unit noise and class numbers on the CPU."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(batch, 2, 4, 4, generator=generator), torch.arange(batch) + 2


def both(gpu: PretendGpu, **options: Any) -> list[Wait]:
    """Sample on the CPU and on the GPU, whose states must be equal; the GPU's waits."""
    noise, classes = start()
    options = {"num_steps": 4, "guide": Toy(0.5), "guidance": 1.5, **options}
    expected = sample(Toy(), noise, classes, **options)
    x, labels = noise.to("cuda"), classes.to("cuda")
    with gpu.watch() as waits:
        found = sample(Toy(), x, labels, **options)
    assert found.is_cuda and torch.equal(found.cpu(), expected)
    return waits


FIXED = [name for name, row in SOLVERS.items() if not row.adaptive]
PAIRS = [
    (solver, correction)
    for solver in FIXED
    for correction, row in CORRECTIONS.items()
    if (SOLVERS[solver].paired or not row.needs_pair)
    and (SOLVERS[solver].contains_euler or not row.needs_euler)
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("solver", "correction"), PAIRS)
def test_steps_do_not_wait(solver: str, correction: str, dtype: torch.dtype, pretend_gpu: PretendGpu) -> None:
    strength = 0.0 if correction == "none" else 0.5
    options = {"correction": correction, "w_stiff": strength, "w_con": 0.01, "dtype": dtype}
    assert both(pretend_gpu, solver=solver, **options) == []


@pytest.mark.parametrize(
    "options",
    [
        {"solver": "rx", "base": "heun", "denoise_to_zero": True},
        {"solver": "stork", "form": "flow", "denoise_to_zero": True},
        {"solver": "stork", "published": True},
        {"solver": "sdm", "blend": "cosine"},
        {"solver": "dpm_solver_v3", "statistics": ModelStatistics.uniform(*(np.ones((9, 2, 4, 4)),) * 3)},
    ],
    ids=lambda options: "-".join(map(str, list(options.values())[:2])).split("(")[0],
)
def test_options_of_solvers_do_not_wait(options: dict[str, Any], pretend_gpu: PretendGpu) -> None:
    assert both(pretend_gpu, **options) == []


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_do_not_wait(schedule: str, pretend_gpu: PretendGpu) -> None:
    assert both(pretend_gpu, schedule=schedule, denoise_to_zero=True, afs=True) == []


GUIDED: dict[str, dict[str, Any]] = {
    **{name: {"guidance_method": name, "guidance": 0.7} for name in GUIDANCES if name != "none"},
    "interval": {"guidance_interval": (0.1, 5.0)},
    "apg with all options": {
        "guidance_method": "apg",
        "guidance_options": {"eta": 0.5, "norm_threshold": 1.0, "momentum": -0.5},
    },
    "bands with their parallel parts": {
        "guidance_method": "fdg",
        "guidance_options": {"coarse": [0.5], "parallel": [0.0, 0.5]},
    },
    "zero steps": {
        "guidance": 1.5,
        "guidance_method": "cfg_zero_star",
        "guidance_options": {"space": "velocity", "zero_steps": 1},
    },
}


@pytest.mark.parametrize("name", GUIDED)
def test_guidance_does_not_wait(name: str, pretend_gpu: PretendGpu) -> None:
    assert both(pretend_gpu, **GUIDED[name]) == []


def test_the_null_class_does_not_wait(pretend_gpu: PretendGpu) -> None:
    noise, classes = (part.to("cuda") for part in start())
    net = Toy()
    with pretend_gpu.watch() as waits:
        sample(net, noise, classes, num_steps=3, guide=net, guidance=2.0)
    assert waits == []


def test_fresh_noise_of_the_gpu_does_not_wait(pretend_gpu: PretendGpu) -> None:
    noise, classes = (part.to("cuda") for part in start())
    draws = SeededDraws(range(3), "cuda")
    with pretend_gpu.watch() as waits:
        sample(Toy(), noise, classes, num_steps=3, s_churn=2.0, fresh_noise=draws.normal_like)
    assert waits == []


@pytest.mark.parametrize("method", ["cfg", "cfgpp", "apg"])
def test_adaptive_steps_wait_for_what_they_choose(method: str, pretend_gpu: PretendGpu) -> None:
    tries = 0

    def counted(x: Tensor, sigma: Tensor, condition: Tensor | None) -> Tensor:
        nonlocal tries
        tries += 1
        return Toy()(x, sigma, condition)

    noise, classes = start()
    options: dict[str, Any] = {
        "solver": "heun_adaptive", "num_steps": 3, "guide": Toy(0.5), "guidance_method": method,
        "guidance": 0.7,
    }  # fmt: skip
    expected = sample(counted, noise, classes, **options)
    x, labels, tries = noise.to("cuda"), classes.to("cuda"), 0
    with pretend_gpu.watch() as waits:
        found = sample(counted, x, labels, **options)
    assert torch.equal(found.cpu(), expected)
    # Which samples go on: one wait a try, which is an evaluation or two.
    assert 0 < len(waits) <= tries


def test_grids_wait_for_their_branches(pretend_gpu: PretendGpu) -> None:
    noise, classes = start()
    cells = [(0.0, 0.5), *((w_stiff, w_con) for w_stiff in (0.5, 1.0, 2.0) for w_con in (0.01, 0.1))]
    options: dict[str, Any] = {"num_steps": 4, "cells": cells, "guide": Toy(0.5), "guidance": 1.5}
    expected = sample_grid(Toy(), noise, classes, **options)
    x, labels = noise.to("cuda"), classes.to("cuda")
    with pretend_gpu.watch() as waits:
        found = sample_grid(Toy(), x, labels, **options)
    assert torch.equal(found.x.cpu(), expected.x) and len(found.states) > len(noise)
    # One wait a step: which branches there are. One at the end: which are whose.
    assert [wait.kind for wait in waits] == ["copy to the host"] * 4 + ["nonzero"]


@pytest.mark.parametrize("letter", "abcdefghi")
def test_networks_do_not_wait(letter: str, pretend_gpu: PretendGpu) -> None:
    net = build_denoiser(read_checkpoint(golden_path(letter)), "cuda")
    noise, labels = draw(range(2), net)
    with torch.inference_mode():
        expected = golden_net(letter)(noise * 2, 2.0, labels)
    x, condition = (noise * 2).to("cuda"), None if labels is None else labels.to("cuda")
    with torch.inference_mode():
        net(x, 2.0, condition)  # constants are made once
        with pretend_gpu.watch() as waits:
            found = net(x, 2.0, condition)
            net(x, torch.full((2,), 2.0, device="cuda"), condition)
            if condition is not None:
                net(x, 2.0, condition.argmax(dim=1))  # class numbers
                net(x, 2.0, None)
            net.network.use_published_attention()
            net(x, 2.0, condition)
    assert torch.equal(found.cpu(), expected)
    assert waits == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_wait(dtype: torch.dtype, pretend_gpu: PretendGpu) -> None:
    net = build_denoiser(read_checkpoint(golden_path("c")), "cuda", dtype)
    noise, labels = draw(range(2), net, "cuda")
    sample(net, noise, labels, num_steps=2)
    with pretend_gpu.watch() as waits:
        sample(net, noise, labels, num_steps=3)
    assert waits == []


def test_the_vae_waits_once_a_batch(tmp_path: Path, pretend_gpu: PretendGpu) -> None:
    folder = write_vae(tmp_path / "vae")
    files = (folder / "config.json", folder / "diffusion_pytorch_model.safetensors")
    latents = torch.randn(5, 4, 4, 4)
    expected = load_vae(*files, "cpu", batch=2)(latents)
    decode, x = load_vae(*files, "cuda", batch=2), latents.to("cuda")
    decode(x)
    with pretend_gpu.watch() as waits:
        found = decode(x)
    assert torch.equal(found.cpu(), expected)
    assert len(waits) == 1 and waits[0].kind == "value read"  # whether all is finite


def digits(weights: Path, device: str) -> Extract:
    return load_digits_detector(Assets.from_environment().locate(DIGITS_WEIGHTS), device)


DETECTORS: dict[str, tuple[Callable[[Path], Path] | None, Callable[..., Extract], int, int]] = {
    "digits": (None, digits, 8, 2),
    "dinov2_torch": (write_dinov2, load_dinov2_torch, 20, 1),  # the features
    "dinov2_pil": (write_dinov2, load_dinov2_pil, 20, 3),  # Pillow resizes on the CPU
    "inception": (write_inception, load_inception, 20, 3),  # features, logits, and those of sFID
    "vgg16": (write_vgg16, load_vgg16, 20, 4),  # torchvision's constants
}
SLOW = ("inception", "vgg16")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in DETECTORS]
)
def test_detectors_wait_for_their_results(name: str, tmp_path: Path, pretend_gpu: PretendGpu) -> None:
    write, load, size, most = DETECTORS[name]
    weights = tmp_path / "weights.pth" if write is None else write(tmp_path / "weights.pth")
    channels = 1 if name == "digits" else 3
    images = torch.randint(0, 256, (2, channels, size, size), dtype=torch.uint8)
    expected = load(weights, "cpu")(images)
    extract, x = load(weights, "cuda"), images.to("cuda")
    extract(x)
    with pretend_gpu.watch() as waits:
        found = extract(x)
    for item, values in expected.items():
        assert found[item].device.type == "cpu" and torch.equal(found[item], values)
    assert len(waits) <= most, waits


@pytest.mark.parametrize("num_real", [200, 20])
@pytest.mark.parametrize("num_groups", [0, 4, 9])
def test_frechet_distances_are_computed_on_the_gpu(
    num_real: int, num_groups: int, pretend_gpu: PretendGpu
) -> None:
    """To a reference of full rank and to a singular one; one group is empty."""
    make = torch.Generator().manual_seed(num_groups)
    features = torch.randn(120, 24, generator=make).relu()
    stats = FeatureSums.of(torch.randn(num_real, 24, generator=make)).stats()
    groups = torch.randint(0, max(num_groups - 1, 1), [120], generator=make)
    expected, rest = distances_without_groups(features, groups, num_groups, FrechetTarget(stats))
    target = FrechetTarget(stats, torch.device("cuda"))
    with pretend_gpu.watch() as waits:
        found, without = distances_without_groups(features, groups, num_groups, target)
    near = {"rel": 1e-9} if num_real > 24 else {"rel": 0, "abs": 3e-6}
    assert [found, *without] == pytest.approx([expected, *rest], **near)
    assert len(waits) == 6 and len(without) == num_groups


def files_of(spec: RunSpec) -> dict[str, bytes]:
    folder = RunStore.folder_of(spec)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}


SHORT = ("schedule.num_steps=2", "seeds=0-15", "metrics.names=[fd_digits]", "correction=erk_guid")


def finished(make: MakeSpec, out: Path, device: str, *, shared: bool) -> list[tuple[dict[str, bytes], Any]]:
    """Files and figures of two runs: sampling, decoding, features, the writer's threads, and the score."""
    specs = [make(*SHORT, f"device={device}", f"out={out}", f"correction.w_stiff={w}") for w in (0.0, 0.5)]
    generate([specs], Worker(), lambda *_: None, features=True, shared=shared)
    return [(files_of(spec), score(spec).metrics) for spec in specs]


def test_the_pipeline_computes_what_a_cpu_does(
    small_run: MakeSpec, tmp_path: Path, pretend_gpu: PretendGpu
) -> None:
    expected = finished(small_run, tmp_path / "cpu", "cpu", shared=False)
    assert pretend_gpu.calls == 0 and all(len(files) == 4 for files, _ in expected)
    for shared in (False, True):
        before = pretend_gpu.calls
        found = finished(small_run, tmp_path / str(shared), "cuda", shared=shared)
        assert found == expected and pretend_gpu.calls > before


def test_a_run_on_the_gpus_own_draws(small_run: MakeSpec, pretend_gpu: PretendGpu) -> None:
    spec = small_run(*SHORT, "device=cuda", "draw_device=cuda", "correction=none", "solver.s_churn=1")
    generate([[spec]], Worker(), lambda *_: None, features=True)
    assert score(spec).num_images == 16
