"""Whose random numbers a run takes, and where."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from erk_bench.base.errors import UserError
from erk_bench.runs.device import Place, check_draws
from erk_bench.runs.sample_block import sample_block
from erk_bench.spec import RunSpec

MakeSpec = Callable[..., RunSpec]


def test_draws_of_a_gpu_are_not_made_elsewhere(small_run: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="'cuda' but the device is a CPU.*draw_device=cuda_emulated.*=cpu"):
        check_draws(small_run("draw_device=cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    with pytest.raises(UserError, match="the device is an AMD GPU.*draw_device=cuda_emulated"):
        check_draws(dataclasses.replace(small_run("draw_device=cuda"), device="auto"))


def test_emulated_draws_make_a_run_of_their_own(small_run: MakeSpec) -> None:
    """They are never mixed with those of a GPU, nor with a CPU's, and stochastic samplers take them, too."""
    specs = [small_run(f"draw_device={name}") for name in ("cpu", "cuda", "cuda_emulated")]
    assert len({spec.run_id for spec in specs}) == 3
    place = Place.of(specs[0])
    churned = [small_run(f"draw_device={name}", "solver.s_churn=10") for name in ("cpu", "cuda_emulated")]
    for cpu, emulated in ((specs[0], specs[2]), churned):
        images = [sample_block(spec, range(4), place).on_device for spec in (cpu, emulated, emulated)]
        assert torch.equal(images[1], images[2]) and not torch.equal(images[0], images[1])
