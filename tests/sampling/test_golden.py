"""Trajectories, stiffness and seeds of the published programs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from erk_bench import sample
from erk_bench.networks.decoders import rgb_to_uint8
from erk_bench.sampling.loop import TracePoint
from erk_bench.sampling.seeds import SeededDraws, initial
from tests.conftest import golden, golden_facts, golden_net

GUIDE = {"a": "b", "c": "d"}
DTYPES = {"f32": torch.float32, "f64": torch.float64}


def mixture(part: str) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """Posterior mean of the golden Gaussian mixture `part` (README-analytic)."""
    mean, std, weight = (golden("analytic_trajectories")[f"{part}.{k}"] for k in ("mean", "std", "weight"))

    def denoiser(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        flat = x.flatten(1)[:, None]
        variance = std**2 + sigma**2
        logits = weight.log() - ((flat - mean) ** 2).sum(-1) / (2 * variance)
        logits = logits - mean.shape[1] / 2 * variance.log()
        parts = mean + (std**2 / variance)[:, None] * (flat - mean)
        return (logits.softmax(1)[..., None] * parts).sum(1).reshape(x.shape)

    return denoiser


ANALYTIC = [key for key in golden_facts("analytic_trajectories")["runs"] if key.startswith("erk_heun")]
ERK = {
    key: run for net in golden_facts("erk_guid_sampler").values() for key, run in net["runs"].items()
}  # fmt: skip
EDM = golden_facts("edm_sampler")["runs"]


def test_there_are_golden_runs() -> None:
    assert (len(ANALYTIC), len(ERK), len(EDM)) == (72, 120, 44)


@pytest.mark.parametrize("key", ANALYTIC)
def test_analytic_trajectory(key: str) -> None:
    """Heun and ERK-Heun, with and without guidance, in float64 to 1e-8 relative."""
    data = golden("analytic_trajectories")
    run = golden_facts("analytic_trajectories")["runs"][key]
    x = sample(
        mixture("main"),
        data["noise"],
        num_steps=run["num_steps"],
        w_stiff=run["w_stiff"],
        w_con=run["w_con"],
        guide=mixture("guide"),
        guidance=run["guidance"],
        dtype=torch.float64,
    )
    assert (x - data[key]).abs().max() <= 1e-8 * data[key].abs().max()


def fast_keys(keys: list[str]) -> list[object]:
    """Short trajectories by default; the long ones are slow."""
    return [
        key if ".n4." in key or ".n5." in key else pytest.param(key, marks=pytest.mark.slow) for key in keys
    ]


@pytest.mark.parametrize("key", fast_keys(list(ERK)))
def test_erk_guid_on_networks(key: str) -> None:
    """Result within the golden's own sensitivity; stiffness to 5e-3; every gate decision the same."""
    data, run, letter = golden("erk_guid_sampler"), ERK[key], key[0]
    points: list[TracePoint] = []
    x = sample(
        golden_net(letter),
        data[f"{letter}.noise"],
        data[f"{letter}.labels"],
        num_steps=run["num_steps"],
        w_stiff=run["w_stiff"],
        w_con=run["w_con"],
        guide=golden_net(GUIDE[letter]),
        guidance=run["guidance"],
        dtype=DTYPES[run["dtype"]],
        trace=points.append,
    )
    tolerance = 5 * run["max_abs_deviation_other_conv_backend"] + 1e-5
    assert (x - data[f"{key}.out"]).abs().max() <= tolerance
    stiffness = torch.stack([p.stiffness for p in points if p.stiffness is not None])
    gates = torch.stack([p.gate for p in points if p.gate is not None])
    expected = data[f"{key}.stiffness"]
    assert ((stiffness - expected) / expected).abs().max() <= 5e-3
    assert torch.equal(gates, data[f"{key}.gate"].bool())
    assert points[0].stiffness is None and points[-1].stiffness is None


@pytest.mark.parametrize("key", fast_keys(list(EDM)))
def test_edm_sampler_on_networks(key: str) -> None:
    """Deterministic and stochastic EDM2 sampling, noise and labels drawn from the seeds."""
    data, run, letter = golden("edm_sampler"), EDM[key], key[0]
    net = golden_net(letter)
    draws = SeededDraws(golden_facts("edm_sampler")["seeds"])
    noise, classes = initial(draws, data[f"{letter}.noise"].shape[1:], net.num_classes)
    assert torch.equal(noise, data[f"{letter}.noise"])
    assert classes is not None and torch.equal(classes, data[f"{letter}.labels"].argmax(1))
    options = {name.lower(): float(run[name]) for name in run if name.startswith("S_")}
    if ".rho5." in key:
        options |= {"sigma_min": 0.01, "sigma_max": 40.0, "rho": 5.0}
    x = sample(
        net,
        noise,
        classes,
        num_steps=run["num_steps"],
        guide=golden_net(GUIDE[letter]),
        guidance=run["guidance"],
        dtype=DTYPES[run["dtype"]],
        fresh_noise=draws.normal_like,
        **options,
    )
    tolerance = 5 * run["max_abs_deviation_other_conv_backend"] + 1e-5
    assert (x - data[f"{key}.out"]).abs().max() <= tolerance


@pytest.mark.parametrize("tag", ["erk", "erk_guid", "edm_churn_class3"])
def test_whole_pipeline_images(tag: str) -> None:
    """From seeds to uint8 images: at most one grey level off, in few pixels."""
    data, run = golden("pipeline_images"), golden_facts("pipeline_images")[tag]
    net = golden_net("c")
    draws = SeededDraws(run["seeds"])
    noise, classes = initial(draws, data["noise"].shape[1:], net.num_classes, run.get("class_idx"))
    assert torch.equal(noise, data["noise"])
    assert classes is not None and torch.equal(classes, data[f"{tag}.labels"].argmax(1))
    x = sample(
        net,
        noise,
        classes,
        num_steps=run["num_steps"],
        w_stiff=run.get("w_stiff", 0.0),
        w_con=run.get("w_con", 0.0),
        guide=golden_net("d"),
        guidance=run.get("guidance", 1.0),
        s_churn=run.get("S_churn", 0.0),
        fresh_noise=draws.normal_like,
    )
    gap = (rgb_to_uint8(x).int() - data[f"{tag}.images"].int()).abs()
    assert gap.max() <= 1
    assert gap.count_nonzero() <= 0.01 * gap.numel()


def test_seeds() -> None:
    """Noise, then the label, then fresh noise, exactly; a seed above 2^32 is reduced."""
    data = golden("seeding")
    draws = SeededDraws(data["seeds"].tolist())
    assert data["seeds"].max() >= 2**32
    assert torch.equal(draws.normal((4, 16, 16)), data["noise"])
    assert torch.equal(draws.integers(1000), data["labels"])
    assert torch.equal(draws.normal((2, 3, 3)), data["next_randn_like_f32"])
    draws = SeededDraws(data["seeds"].tolist())
    draws.normal((4, 16, 16))
    draws.integers(1000)
    assert torch.equal(draws.normal((2, 3, 3), torch.float64), data["next_randn_like_f64"])
    draws = SeededDraws(data["seeds"].tolist())
    assert torch.equal(draws.normal((3, 64, 64))[:, :, :2, :4], data["noise_3x64x64_first"])
    assert torch.equal(draws.integers(1000), data["labels_after_3x64x64"])
