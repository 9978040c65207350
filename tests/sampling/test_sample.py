"""The Python API."""

from __future__ import annotations

import inspect

import torch

import erk_bench
from tests.conftest import golden_net


def test_signature_shows_the_options_of_the_design() -> None:
    parameters = inspect.signature(erk_bench.sample).parameters
    defaults = {name: parameters[name].default for name in list(parameters)[2:]}
    assert list(parameters)[:13] == [
        "net", "noise", "labels", "solver", "num_steps", "w_stiff", "w_con", "guide", "guidance",
        "sigma_min", "sigma_max", "rho", "dtype",
    ]  # fmt: skip
    expected = {
        "labels": None, "solver": "heun", "num_steps": 32, "w_stiff": 0.0, "w_con": 0.5, "guide": None,
        "guidance": 1.0, "sigma_min": 0.002, "sigma_max": 80.0, "rho": None, "dtype": torch.float32,
    }  # fmt: skip
    assert {name: defaults[name] for name in expected} == expected


def test_draw_and_sample_on_shipped_networks() -> None:
    net = erk_bench.load_denoiser("digits")
    noise, labels = erk_bench.draw([3, 2**32 + 3, 4], net)
    assert noise.shape == (3, 1, 8, 8) and noise.dtype == torch.float32
    assert labels is not None and labels.shape == (3, 10) and (labels.sum(1) == 1).all()
    assert torch.equal(noise[0], noise[1]) and not torch.equal(noise[0], noise[2])
    x = erk_bench.sample(net, noise, labels, num_steps=6, w_stiff=0.5)
    assert x.shape == noise.shape and x.isfinite().all() and not x.requires_grad


def test_unconditional_networks_have_no_labels() -> None:
    noise, labels = erk_bench.draw([0, 1], golden_net("b"))
    assert labels is None
    assert erk_bench.sample(golden_net("b"), noise, num_steps=3).shape == noise.shape


def test_public_names() -> None:
    assert set(erk_bench.__all__) == {
        "FlowModel",
        "Node",
        "Step",
        "__version__",
        "draw",
        "frechet_distance",
        "load_denoiser",
        "load_records",
        "sample",
        "sample_grid",
        "score",
    }
