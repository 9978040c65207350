"""Code and noise levels of a user's own, from settings to samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from erk_bench import sample
from erk_bench.base import own_code
from erk_bench.base.errors import UserError
from erk_bench.base.files import fresh_sha256
from erk_bench.commands.compose import run_spec
from erk_bench.runs.device import Place
from erk_bench.runs.equation import equation_of
from erk_bench.runs.sample_block import sample_block
from erk_bench.sampling.sample import equation_from, solve
from erk_bench.spec import RunSpec
from tests.sampling.test_solvers import gaussian, noise

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes a user's file my.py into a folder where the test then works."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        file = tmp_path / "my.py"
        file.write_text(text)
        return file

    return write


def images(spec: RunSpec) -> Tensor:
    return sample_block(spec, [0, 1, 2], Place.of(spec)).on_device


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["solver={}/my_solver.py:step", "solver.share=0.5"], "my_solver.step"),
        (["guidance={}/my_guidance.py:bell", "guidance.weight=2", "guidance.width=0.5"], "my_guidance.bell"),
        (["correction={}/my_correction.py:shrink", "correction.w_stiff=0.2"], "my_correction.shrink"),
    ],
)
def test_the_examples_are_runs_of_their_own(settings: list[str], named: str) -> None:
    """KIND=FILE:NAME and KIND.path=FILE:NAME are one; the file's hash and the options are identity."""
    given = [setting.format(EXAMPLES) for setting in settings]
    spec = run_spec([*given, "schedule.num_steps=4"])
    assert named.replace(".", "_") in spec.slug.replace(".", "_")
    kind, _, address = given[0].partition("=")
    assert run_spec([f"{kind}.path={address}", *given[1:], "schedule.num_steps=4"]).digest == spec.digest
    plain = run_spec(["schedule.num_steps=4"])
    assert spec.digest != run_spec([given[0], "schedule.num_steps=4"]).digest  # the option counts
    assert not torch.equal(images(spec), images(plain))


def test_ralstons_method_is_of_second_order() -> None:
    spec = run_spec([f"solver={EXAMPLES}/my_solver.py:step"])
    part = equation_of(spec).solver
    errors = []
    for num_steps in (41, 81):
        x = sample(
            gaussian, noise(), solver=part.row, num_steps=num_steps, sigma_min=0.1, sigma_max=4.0,
            schedule="polynomial", denoise_to_zero=False, dtype=torch.float64,
        )  # fmt: skip
        exact = noise() * 4.0 * (0.7**2 + 0.1**2) ** 0.5 / (0.7**2 + 4.0**2) ** 0.5
        errors.append((x - exact).abs().max().item())
    assert 3.5 < errors[0] / errors[1] < 4.5


def test_a_schedule_of_a_users_own(own: Callable[[str], Path]) -> None:
    own(
        "def halves(num_steps, sigma_min, sigma_max, rho, dtype, *, by=2.0):\n"
        "    return [sigma_max / by**k for k in range(num_steps)]\n"
    )
    spec = run_spec(["schedule=my.py:halves", "schedule.num_steps=5", "schedule.by=4"])
    assert equation_of(spec).levels == (80.0, 20.0, 5.0, 1.25, 0.3125)
    assert dict(spec.schedule.options) == {"by": 4.0} and spec.schedule.name == "my.halves"
    assert run_spec(["schedule=my.py:halves", "schedule.by=2"]).schedule.options == ()


def test_a_module_is_found_without_importing_it(own: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "erk_bench_test_package").mkdir()
    (tmp_path / "erk_bench_test_package" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "erk_bench_test_package" / "steps.py").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        found = own_code.locate("erk_bench_test_package.steps:step", "solver.path")
        assert found == tmp_path / "erk_bench_test_package" / "steps.py"
        with pytest.raises(UserError, match="cannot be imported: RuntimeError: imported"):
            own_code.load("erk_bench_test_package.steps:step", fresh_sha256(found), "solver.path")


# A kind of code, a function that is wrong, and a part of the answer.
WRONG = [
    ("solver", "(slope, x, a, b, h): return x", "returned a Tensor; expected erk_bench.Step("),
    (
        "guidance",
        "(x, sigma, main, guide, weight): return main[:, :, :4]",
        "cpu; expected the guided",
    ),
    ("correction", "(step, w_stiff, w_con): return None", "returned a NoneType, not a tensor"),
    ("schedule", "(n, low, high, rho, dtype): return 'abc'", "returned a str; expected num_steps"),
    ("schedule", "(n, low, high, rho, dtype): return [2.0, 1.0]", "returned values of shape [2]; expected"),
    ("solver", "(x): return x", "a solver takes (slope, x, sigma, sigma_next, history)"),
    ("guidance", "(x, *, a): return x", "a guidance takes (x, sigma, main, guide, weight)"),
    ("correction", "(step, w_stiff, w_con, *, a): return step", "option 'a' of f in 'my.py' has no default"),
    ("correction", "(): pass\nf = 3", "which is int; expected a function (step, w_stiff, w_con) or a Corr"),
    ("correction", "g(): pass", "unknown function in"),
]


@pytest.mark.parametrize(("kind", "text", "named"), WRONG)
def test_what_was_expected_is_told_in_one_line(
    own: Callable[[str], Path], kind: str, text: str, named: str
) -> None:
    own(f"def f{text}")
    with pytest.raises(UserError) as caught:
        images(run_spec([f"{kind}=my.py:f", "schedule.num_steps=4"]))
    assert named in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["my.py", "my.txt:f", "my.py:2f", "absent.py:f", "no_such_package.steps:f"]
)
def test_addresses_that_lead_nowhere(own: Callable[[str], Path], address: str) -> None:
    with pytest.raises(UserError, match=r"solver\.path (is|names) "):
        run_spec([f"solver.path={address}"])


def test_explicit_levels(tmp_path: Path) -> None:
    """On the command line, from a file, with or without the last zero: one run, and what `sample` does."""
    levels = [80.0, 10.0, 1.0, 0.1]
    file = tmp_path / "levels.txt"
    file.write_text("80, 10\n1 0.1\n0\n")
    spec = run_spec(["schedule.sigmas=[80,10,1,0.1]"])
    assert run_spec([f"schedule.sigmas={file}"]).digest == spec.digest
    assert run_spec(["schedule.sigmas=[80,10,1,0.1,0]"]).digest == spec.digest
    assert spec.slug == "digits-heun4" and spec.digest != run_spec(["schedule.num_steps=4"]).digest
    equation = equation_of(spec)
    assert equation.levels == tuple(levels)
    x = solve(equation, gaussian, noise()).x
    assert torch.equal(x, sample(gaussian, noise(), sigmas=levels))
    multistep = run_spec(["solver=deis", "schedule.sigmas=[80,10,1,0.1,0]"])
    assert equation_of(multistep).run.to_zero and not equation_of(run_spec(["solver=deis"])).run.to_zero


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("[1,2]", "the noise levels are 1, 2; they must"),
        ("[80]", "they must be two or more"),
        ("[80,x]", "holds no number"),
        ("absent.txt", "expected levels as [80,10,1,0.1], or a text file of them"),
        ("5", "they must be two or more"),
        ("[80,0,0]", "they must"),
    ],
)
def test_bad_explicit_levels(given: str, named: str) -> None:
    with pytest.raises(UserError) as caught:
        run_spec([f"schedule.sigmas={given}"])
    assert named in str(caught.value)


def test_an_equation_is_refused_when_it_is_built() -> None:
    for options, named in (
        ({"w_stiff": 1.0, "s_churn": 4.0}, "deterministic"),
        ({"solver": "euler", "w_stiff": 1.0}, "no embedded pair"),
        ({"guidance": 2.0, "guidance_method": "none"}, "it must be 1"),
        ({"num_stepps": 4}, "did you mean 'num_steps'"),
    ):
        with pytest.raises(UserError, match=named):
            equation_from(**options)  # type: ignore[arg-type]  # wrong on purpose
