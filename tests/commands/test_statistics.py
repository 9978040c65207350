"""`erk-bench statistics`: a file that runs take and are named after; what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.cli import main
from erk_bench.commands.compose import run_spec
from erk_bench.runs.cost import count_evaluations
from erk_bench.runs.device import Place
from erk_bench.runs.equation import equation_of
from erk_bench.studies import model_statistics

SMALL = ["images=2", "levels=3", "seeds=1000000-1000001", "workers=1"]
SPREAD = 0.7


def made(to: Path, *more: str) -> Path:
    assert main(["statistics", *SMALL, f"to={to}", *more]) == 0
    return to


def test_a_run_with_statistics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its name is that of their content, wherever the file lies; blocks do not matter."""
    file = made(tmp_path / "digits.safetensors", "block_size=1")
    assert f"solver.statistics={file}" in capsys.readouterr().out
    spec = run_spec(["solver=dpm_solver_v3", f"solver.statistics={file}", "schedule.num_steps=4"])
    found = equation_of(spec).solver.options["statistics"]
    assert found.l.shape == (3, 1, 8, 8) and np.isfinite([found.l, found.s, found.b]).all()
    assert found.l[0].mean() == pytest.approx(1, abs=0.01)  # at sigma 80 the noise is nearly x / sigma
    plain = run_spec(["solver=dpm_solver_v3", "schedule.num_steps=4"])
    other = tmp_path / "copy.safetensors"
    other.write_bytes(file.read_bytes())
    copied = run_spec(["solver=dpm_solver_v3", f"solver.statistics={other}", "schedule.num_steps=4"])
    assert copied.digest == spec.digest != plain.digest
    assert count_evaluations(spec) == count_evaluations(plain) == (3, 0)
    with pytest.raises(UserError, match="with statistics holds in x and sigma; leave out coordinates=native"):
        equation_of(dataclasses.replace(spec, coordinates="native"))
    other.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(UserError):
        equation_of(copied)


def test_the_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Gaussian data all is known: l = sigma^2 / (sigma^2 + spread^2), f = 0."""

    def gaussian(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        return x * SPREAD**2 / (SPREAD**2 + sigma.reshape(-1, 1, 1, 1) ** 2)

    drawn = torch.randn(6, 1, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    class Drawn:
        net, guide, noise, condition = staticmethod(gaussian), None, drawn, None

    monkeypatch.setattr(model_statistics, "draw_block", lambda *given: Drawn)
    spec = run_spec(["seeds=0-5", "block_size=6", "dtype=float64"])
    found = model_statistics.measured_statistics(spec, Place.of(spec), 6, 31)
    share = found.sigmas**2 / (found.sigmas**2 + SPREAD**2)
    assert np.abs(found.l - share[:, None, None, None]).max() < 1e-6
    assert np.abs(found.b).max() < 1e-5


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"w": torch.ones(2)}, file)
    spec = run_spec(["solver=dpm_solver_v3", f"solver.statistics={file}"])
    with pytest.raises(
        UserError, match="has the tensors w; solver.statistics takes a file of 'erk-bench stat"
    ):
        equation_of(spec)
    with pytest.raises(UserError, match="absent.safetensors"):
        run_spec(["solver=dpm_solver_v3", f"solver.statistics={tmp_path / 'absent.safetensors'}"])


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["images=5", "seeds=0-3"], "images is 5, and seeds=0-3 are 4; give more seeds"),
        (["images=4", "levels=2"], "levels is '2'; expected a whole number from 3 on"),
        (
            ["images=4", "guidance=apg", "guidance.weight=2", "guidance.momentum=-0.5"],
            "depends on earlier evaluations and has no Jacobian; set guidance.momentum=0",
        ),
    ],
)
def test_refusals(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["statistics", *words]) == 2
    assert named in capsys.readouterr().err
