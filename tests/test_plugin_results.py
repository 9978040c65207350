"""What a user's own step function returns or raises: one line that shows what is expected."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from erk_bench.base.errors import UserError
from erk_bench.base.own_code import code_sha256
from erk_bench.cli import main
from erk_bench.runs.plugins import row_of
from erk_bench.sampling.steps import Node, Step
from tests.test_cli import SMALL

EULER = """
import torch
from erk_bench import Node, Step

def step(slope, x, sigma, sigma_next, history, *, option=1):
    node = Node(x, slope(x, sigma), sigma)
    x_next = x - (sigma - sigma_next) * node.slope
    made = Step(x_next, node, None, sigma - sigma_next, None)
    return made
"""
GOOD = "return made"


def made(tmp_path: Path, instead: str) -> Step:
    """What the step function returns, with its last line replaced."""
    file = tmp_path / "own.py"
    file.write_text(EULER.replace(GOOD, instead))
    x = torch.zeros(2, 1, 4, 4)
    address = f"{file}:step"
    step = row_of("solver", address, code_sha256(address, "solver.path")).step
    found = step(lambda x, sigma: torch.ones_like(x), x, 2.0, 1.0, [])
    assert isinstance(found, Step)
    return found


def test_a_good_step_is_returned_as_it_is(tmp_path: Path) -> None:
    found = made(tmp_path, GOOD)
    assert isinstance(found, Step) and isinstance(found.node, Node)
    assert found.x_next.eq(-1).all()


@pytest.mark.parametrize(
    ("instead", "told"),
    [
        ("return x_next", "returned a Tensor; expected erk_bench.Step(x_next, node, partner, span, ahead)"),
        ("return None", "returned a NoneType; expected"),
        ("return tuple(made)", "returned a tuple; expected"),
        ("return made._replace(x_next=None)", "whose x_next is a NoneType, not a tensor [2, 1, 4, 4]"),
        (
            "return made._replace(x_next=x_next[:1])",
            "x_next is a tensor [1, 1, 4, 4] of float32 on cpu, not a",
        ),
        (
            "return made._replace(x_next=x_next.double())",
            "of float64 on cpu, not a tensor [2, 1, 4, 4] of float32",
        ),
        ("return made._replace(x_next=x_next.to('meta'))", "of float32 on meta, not a"),
        ("return made._replace(node=x)", "whose node is a Tensor, not a Node"),
        ("return made._replace(node=None)", "whose node is a NoneType, not a Node"),
        ("return made._replace(node=node._replace(slope=1.0))", "whose node.slope is a float, not a tensor"),
        ("return made._replace(partner=x)", "whose partner is a Tensor, not a Node or None"),
        ("return made._replace(ahead=node._replace(x=x[0]))", "whose ahead.x is a tensor [1, 4, 4]"),
        ("return made._replace(span=None)", "whose span is a NoneType, not a number"),
        (
            "return made._replace(span=x)",
            "whose span is a tensor [2, 1, 4, 4] of float32 on cpu, not a number",
        ),
        ("return made.x_nxt", "failed at line 9: return made.x_nxt (AttributeError: 'Step' object has no"),
        ("raise RuntimeError('two\\nlines')", "(RuntimeError: two lines)"),
        (
            "return torch.ones(3) @ torch.ones(4)",
            "at line 9: return torch.ones(3) @ torch.ones(4) (RuntimeError",
        ),
        ("assert False", "failed at line 9: assert False (AssertionError: )"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(instead: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        made(tmp_path, instead)
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert f"step in '{tmp_path / 'own.py'}'" in str(caught.value)


def test_what_is_no_mistake_of_the_users_file_passes(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        made(tmp_path, "raise torch.OutOfMemoryError('full')")
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, "raise KeyboardInterrupt")


@pytest.mark.parametrize(
    ("instead", "told"),
    [
        ("return x_next", "step in 'own.py' returned a Tensor; expected erk_bench.Step"),
        (
            "return made._replace(x_next=x_next * float('nan'))",
            "Try another solver than that of 'own.py:step'",
        ),
        ("return made.x_nxt", "step in 'own.py' failed at line 9: return made.x_nxt"),
    ],
)
def test_a_run_tells_it_in_one_line(
    instead: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(EULER.replace(GOOD, instead))
    assert main(["run", *SMALL, "solver.path=own.py:step", "out=runs"]) == 2
    printed = capsys.readouterr().err
    assert told in printed and printed.count("\n") == 1
