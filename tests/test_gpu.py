"""What only a CUDA device can show; run with `pytest -m gpu` where there is one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import erk_bench
from erk_bench.commands.actions.train import TrainingPlan, train_one
from erk_bench.evaluation.frechet import FeatureSums, FrechetTarget, distances_without_groups
from erk_bench.networks.checkpoint import build_denoiser, read_checkpoint
from erk_bench.runs.blocks import Worker
from erk_bench.runs.cost import measured_rate
from erk_bench.runs.device import Place
from erk_bench.runs.generate import generate
from erk_bench.runs.sample_block import sample_block
from erk_bench.runs.store import RunStore
from erk_bench.sampling.philox import EmulatedGenerator
from erk_bench.sampling.sample import draw, sample
from erk_bench.sampling.seeds import SeededDraws
from erk_bench.spec import RunSpec
from erk_bench.training.denoisers import DenoiserTraining
from erk_bench.training.pictures import load_pictures
from tests.conftest import golden_net, golden_path
from tests.training.test_train import TINY, TINY_FEATURES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

CLASSES = [516, 637, 489, 930, 689, 661, 100, 927]  # of seeds 100000 to 100007, after a latent's noise

MakeSpec = Callable[..., RunSpec]


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def test_float32_equals_the_cpu() -> None:
    noise, labels = draw(range(8), golden_net("c"))
    assert labels is not None
    on_cpu = sample(golden_net("c"), noise, labels, num_steps=8, w_stiff=0.5, w_con=0.1)
    net = build_denoiser(read_checkpoint(golden_path("c")), "cuda")
    on_gpu = sample(net, noise.cuda(), labels.cuda(), num_steps=8, w_stiff=0.5, w_con=0.1)
    assert (on_gpu.cpu() - on_cpu).abs().max() <= 1e-3 * on_cpu.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close(dtype: torch.dtype) -> None:
    noise, labels = draw(range(8), golden_net("c"))
    assert labels is not None
    sigma = torch.tensor(2.0)
    exact = golden_net("c")(noise * 2, sigma, labels)
    net = build_denoiser(read_checkpoint(golden_path("c")), "cuda", dtype)
    found = net(noise.cuda() * 2, sigma.cuda(), labels.cuda())
    assert found.dtype == torch.float32
    assert (found.cpu() - exact).abs().max() <= 0.05 * exact.abs().max()


@pytest.mark.parametrize("network_dtype", ["float32", "float16"])
def test_same_bytes_again(network_dtype: str, small_run: MakeSpec, tmp_path: Path) -> None:
    runs = []
    for name in ("a", "b"):
        spec = small_run(
            "device=cuda", "draw_device=cuda", f"network_dtype={network_dtype}", f"out={tmp_path / name}"
        )
        generate([[spec]], Worker(), lambda *_: None, features=True)
        folder = RunStore.folder_of(spec)
        runs.append({path.name: path.read_bytes() for path in sorted(folder.rglob("images/*.safetensors"))})
    assert runs[0] == runs[1] and len(runs[0]) == 5


def test_images_reach_the_host_whole(small_run: MakeSpec) -> None:
    spec = small_run("device=cuda")
    sampled = sample_block(spec, range(8), Place.of(spec))
    content = sampled.host()
    assert content.images.device.type == "cpu" and torch.equal(content.images, sampled.on_device.cpu())


def test_compiled_network_is_close(small_run: MakeSpec) -> None:
    plain, compiled = (
        sample_block(spec, range(8), Place.of(spec)).on_device
        for spec in (small_run("device=cuda", f"compile={value}") for value in ("false", "true"))
    )
    assert (plain.int() - compiled.int()).abs().max() <= 2


def assert_close_normals(one: torch.Tensor, other: torch.Tensor) -> None:
    """To 1e-6 but for few that lie far out, whose radius multiplies the error of the card's fast sine."""
    gaps = (one - other).abs()
    assert gaps.max() <= 2e-6, gaps.max()
    assert (gaps > 1e-6).double().mean() <= 1e-3


@pytest.mark.parametrize("shape", [(5,), (4, 64, 64), (3, 64, 64), (3, 512, 512), (1_200_003,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_emulated_draws_are_those_of_the_card(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Also where a draw is larger than the card, which depends on its number of processors."""
    card = torch.cuda.get_device_properties(0)
    blocks = card.multi_processor_count * (card.max_threads_per_multi_processor // 256)
    for seed in (0, 42, 100_000, 2**32 - 1):
        generator = torch.Generator("cuda").manual_seed(seed)
        emulated = EmulatedGenerator(seed, blocks)
        for _ in range(2):  # the second draw begins where the first ended
            drawn = torch.randn(shape, generator=generator, device="cuda", dtype=dtype).cpu()
            assert_close_normals(emulated.normal(shape, dtype), drawn)
            classes = torch.randint(1000, (1,), generator=generator, device="cuda").cpu()
            assert torch.equal(classes, emulated.integers(1000))


def test_classes_of_published_seeds() -> None:
    found = [SeededDraws(range(100_000, 100_008), device) for device in ("cuda", "cuda_emulated")]
    assert_close_normals(*(draws.normal((4, 64, 64)).cpu() for draws in found))
    assert [draws.integers(1000).tolist() for draws in found] == [CLASSES, CLASSES]


@pytest.mark.parametrize("numerics", ["published", "fast"])
def test_numerics_are_close_to_strict(numerics: str, small_run: MakeSpec) -> None:
    strict, other = (
        sample_block(spec, range(8), Place.of(spec)).on_device
        for spec in (small_run("device=cuda"), small_run("device=cuda", f"numerics={numerics}"))
    )
    assert (strict.int() - other.int()).abs().max() <= 8


def test_rate_is_measured(small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("erk_bench.runs.cost.CALIBRATION_S", 1.0)
    rate = measured_rate(small_run("device=cuda", "network_dtype=float16"))
    assert rate is not None and rate > 1e9


@pytest.mark.parametrize("num_real", [4000, 500])
def test_frechet_distances_equal_the_cpus(num_real: int) -> None:
    """To a reference of full rank and to a singular one, with what a record keeps of each."""
    make = torch.Generator().manual_seed(num_real)
    features, real = (torch.randn(count, 768, generator=make).relu() for count in (3000, num_real))
    stats, groups = FeatureSums.of(real).stats(), torch.arange(3000) * 5 // 3000
    value, rest = distances_without_groups(features, groups, 5, FrechetTarget(stats))
    target = FrechetTarget(stats, torch.device("cuda"))
    found, without = distances_without_groups(features, groups, 5, target)
    assert [found, *without] == pytest.approx([value, *rest], rel=1e-9 if num_real > 768 else 1e-6)


def test_a_training_put_down_goes_on() -> None:
    """In bfloat16: the numbers are those of the card's own generator, whose state is kept as well."""
    recipe = dataclasses.replace(TINY, device="cuda", dtype="bfloat16", iterations=20)
    pictures = load_pictures("digits", 8)
    whole, first, second = (DenoiserTraining(recipe, pictures.clean, pictures.classes, 10) for _ in range(3))
    torch.cuda.manual_seed(recipe.seed)
    for _ in range(20):
        whole.step()
    torch.cuda.manual_seed(recipe.seed)
    for _ in range(8):
        first.step()
    state = first.state_bytes()
    torch.cuda.manual_seed(0)
    second.load_state(state, "here")
    while second.iteration < 20:
        second.step()
    assert second.losses[:8] == first.losses
    assert second.losses == pytest.approx(whole.losses, abs=0.02)
    assert sum(whole.losses[-5:]) < sum(whole.losses[:5])


def test_networks_are_trained_on_the_card(tmp_path: Path) -> None:
    recipe = dataclasses.replace(TINY, device="cuda", dtype="bfloat16", compiled=True)
    plan = TrainingPlan(images="digits", resolution=8, stored="float16", checkpoint_minutes=0)
    train_one("tiny", recipe, plan, tmp_path)
    net = erk_bench.load_denoiser(tmp_path / "tiny.safetensors")
    assert torch.isfinite(net(torch.zeros(2, 1, 8, 8), 1.0)).all()
    train_one("features", dataclasses.replace(TINY_FEATURES, device="cuda"), plan, tmp_path)
    assert json.loads((tmp_path / "features.json").read_text())["test_accuracy"] > 0.2
