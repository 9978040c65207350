"""Flow models of a user's own: in both coordinates, in runs, and what is refused of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import erk_bench
from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.commands.compose import run_spec
from erk_bench.reporting.row_names import row_names
from erk_bench.runs.blocks import Worker
from erk_bench.runs.checks import check_networks
from erk_bench.runs.converged import check_converged
from erk_bench.runs.cost import count_evaluations
from erk_bench.runs.generate import generate
from erk_bench.spec import RunSpec
from tests.flow_golden import FOLDER, far

EXAMPLE = Path(__file__).parents[2] / "examples" / "my_flow_model.py"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    shutil.copy(EXAMPLE, tmp_path)
    monkeypatch.chdir(tmp_path)
    return "my_flow_model.py:load"


def solution(net: erk_bench.FlowModel, noise: Tensor, spread: float = 0.3) -> Tensor:
    """The end of the trajectory from noise: the mean, and the noise as wide as the data."""
    mean = net(torch.zeros_like(noise[:1]), 1e4)
    return mean + spread * noise


@pytest.mark.parametrize("coordinates", ["edm", "native"])
def test_the_example_ends_where_it_must(example: str, coordinates: str) -> None:
    net = erk_bench.load_denoiser(example)
    noise, labels = erk_bench.draw(range(3), net)
    options = {"sigma_max": 1e4, "sigma_min": 1e-3} if coordinates == "edm" else {"coordinates": coordinates}
    found = erk_bench.sample(net, noise, labels, num_steps=200, dtype=torch.float64, **options)
    assert labels is None and far(found.float(), solution(net, noise)) < 3e-3


def sampled(spec: RunSpec) -> None:
    """Generate the run's images; each of its blocks is there then."""
    generate([[spec]], Worker(), lambda *_: None, features=False)
    assert any((Path(spec.out) / spec.run_id / "images").iterdir())


SDE = ["coordinates=native", "solver=euler", "native.sde=0.04"]


@pytest.mark.parametrize("settings", [[], ["coordinates=native"], ["coordinates=native", "solver=rk4"], SDE])
def test_runs_of_the_example(example: str, small_run: Callable[..., RunSpec], settings: list[str]) -> None:
    spec = small_run(f"model={example}", "model.decoder=digits", *settings)
    assert spec.schedule.name == ("flow" if settings else "polynomial")
    sampled(spec)
    assert ("native" in spec.run_id) == bool(settings)


@pytest.mark.parametrize(
    "settings", [["coordinates=native", "native.last_step=euler"], ["coordinates=native"], []]
)
def test_runs_of_a_published_file(small_run: Callable[..., RunSpec], settings: list[str]) -> None:
    spec = small_run(
        "model.name=tiny", f"model.weights.path={FOLDER / 'jit_a_ema1.safetensors'}",
        "model.weights.family=jit", "model.weights.in_context_start=1", "model.unconditional=same",
        "model.decoder=rgb_rounded", "guidance=cfg", "guidance.weight=2.2", "guidance.interval=[0.1,1.0]",
        *settings,
    )  # fmt: skip
    weights = spec.model.weights
    assert weights.family == "jit" and dict(weights.options) == {"in_context_start": 1}
    check_networks(spec, Assets.from_environment())
    sampled(spec)
    assert count_evaluations(spec)[0] == 7


def test_a_stochastic_run_has_a_name_and_noise_of_its_own(
    example: str, small_run: Callable[..., RunSpec]
) -> None:
    """The same bytes again, whatever was drawn elsewhere; there is no solution to be near to."""
    images = []
    for out in ("a", "b"):
        spec = small_run(f"model={example}", "model.decoder=digits", *SDE, f"out={out}")
        torch.manual_seed(len(images))
        sampled(spec)
        files = sorted((Path(spec.out) / spec.run_id / "images").iterdir())
        images.append([path.read_bytes() for path in files])
    assert images[0] == images[1]
    plain = small_run(f"model={example}", "model.decoder=digits", *SDE[:2])
    assert spec.run_id != plain.run_id and row_names([spec])[0].method == "Euler-Maruyama"
    with pytest.raises(UserError, match=r"native.sde is 0.04, and metric .* without noise; set native.sde=0"):
        check_converged(small_run(f"model={example}", *SDE, "metrics.names=[solver_error]"))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    spec = run_spec(["coordinates=native"])
    with pytest.raises(UserError, match="needs a flow model, and model 'digits' is EDM's"):
        check_networks(spec, Assets.from_environment())
    with pytest.raises(UserError, match="unknown coordinates 'nativ'"):
        run_spec(["coordinates=nativ"])
    with pytest.raises(UserError, match="decides is 'step', which belongs to coordinates=native"):
        run_spec(["native.decides=step"])
    with pytest.raises(UserError, match=r"unknown model.weights.family 'jitt'; did you mean 'jit'"):
        run_spec(["model.weights.family=jitt"])
    with pytest.raises(UserError, match="unknown prediction 'noise'"):
        erk_bench.FlowModel(lambda *_: None, 1, 8, predicts="noise")
    with pytest.raises(UserError, match="data_time is 2"):
        erk_bench.FlowModel(lambda *_: None, 1, 8, data_time=2)


def test_a_preset_tells_what_its_file_must_be(tmp_path: Path) -> None:
    """A file of another size is refused by what differs."""
    preset = tmp_path / "mine.yaml"
    preset.write_text(
        f"name: mine\ndecoder: rgb\nweights: {{path: {FOLDER / 'sit_a.pt'}, family: sit, "
        "architecture: sit-xl-2}\n"
    )
    with pytest.raises(
        UserError, match=r"patch_size is 2|img_channels is 4|hidden_size is 1152, but the network"
    ):
        erk_bench.load_denoiser(preset)
    preset.write_text(
        f"name: mine\nweights: {{path: {FOLDER / 'sit_a.pt'}, family: sit, num_heads: 2}}\ndecoder: rgb\n"
    )
    assert erk_bench.load_denoiser(preset).num_classes == 10


@pytest.mark.parametrize(
    ("predicts", "data_time"), [("velocity", 1), ("velocity", 0), ("data", 1), ("data", 0)]
)
def test_every_convention_is_one_denoiser(predicts: str, data_time: int) -> None:
    """Data of standard deviation 0.7 around 0: what its velocity, either way, and its mean denoise to."""

    def network(x_t: Tensor, t: Tensor, classes: Tensor | None) -> Tensor:
        t = t.reshape(-1, 1, 1, 1)
        u = 1 - t if data_time else t
        total = (1 - u) ** 2 * 0.49 + u**2
        data = x_t * (1 - u) * 0.49 / total
        slope = x_t * (u - (1 - u) * 0.49) / total  # E[noise - data]
        return data if predicts == "data" else -slope if data_time else slope

    net = erk_bench.FlowModel(network, 2, 4, predicts=predicts, data_time=data_time)
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    for sigma in (0.05, 2.0, 50.0):
        assert far(net(x, sigma), x * 0.49 / (0.49 + sigma**2)) < 1e-12
