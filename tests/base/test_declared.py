"""Solvers of the user's own: read by whoever plans, imported only when they run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from erk_bench.base.declared import declared
from erk_bench.base.errors import UserError
from erk_bench.base.own_code import load
from erk_bench.cli import main
from erk_bench.commands.compose import run_spec
from erk_bench.runs.equation import equation_of
from erk_bench.runs.plugin_kinds import KINDS
from erk_bench.sampling.options import defaults_of

SMALL = ["seeds=0-15", "block_size=8", "workers=1", "device=cpu", "schedule.num_steps=3",
         "metrics.names=[fd_digits]", "metrics.num_groups=4"]  # fmt: skip
SPY = """
from pathlib import Path
from erk_bench import Node, Step
Path("RAN").write_text("code of this file ran")
SHARE = 0.5

def step(slope, x, sigma, sigma_next, history, *, share=SHARE):
    h = sigma - sigma_next
    node = Node(x, slope(x, sigma), sigma)
    return Step(x - h * node.slope, node, None, h, None)
"""


def forget() -> None:
    """As if nothing had been imported, which an earlier test may have."""
    load.cache_clear()
    for name in [name for name in sys.modules if name.startswith("erk_bench_user_")]:
        del sys.modules[name]


@pytest.fixture
def spy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a solver, table, grid and manifest that name it; the solver's code leaves a file RAN."""
    monkeypatch.chdir(tmp_path)
    forget()  # else an earlier test's import would hide one
    Path("spy.py").write_text(SPY)
    base = ["track=digits", *SMALL, "solver.path=spy.py:step", "out=runs"]
    shared = {"name": "x", "title": "x", "caption": "x", "base": base}
    table = {**shared, "headline": "fd_digits", "rows": [["solver.share=0.25"], []]}
    grid = {**shared, "panels": ["fd_digits"], "axes": {"schedule.num_steps": [3, 4]}}
    Path("table.yaml").write_text(yaml.safe_dump(table))
    Path("grid.yaml").write_text(yaml.safe_dump(grid))
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        "plan solver.path=spy.py:step solver.share=0.25",
        "plan table=table.yaml",
        "plan table=table.yaml sets=2",
        "plan grid=grid.yaml",
        "plan table=table.yaml --manifest m.txt",
        "plan grid=grid.yaml --manifest m.txt",
        "fetch table=table.yaml",
        "fetch grid=grid.yaml dry_run=true",
        "fetch solver.path=spy.py:step",
        "plan --help",
        "run solver.path=spy.py:step --help",
    ],
)
def test_nothing_is_imported(words: str, spy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 0
    assert not Path("RAN").exists()
    told = capsys.readouterr().out
    assert ("of spy.py:step are not known" in told) == words.startswith(
        ("plan solver", "plan table=table.yaml", "plan grid")
    ) or "manifest" in words
    if Path("m.txt").exists():
        assert main(["task", "m.txt"]) == 0 and not Path("RAN").exists()


def test_a_simulation_needs_the_cost(spy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "table=table.yaml", "simulate=8", "throughput=1"]) == 2
    assert "that of spy.py:step is not known" in capsys.readouterr().err and not Path("RAN").exists()


def test_a_run_imports_it_and_a_finished_one_does_not(spy: Path) -> None:
    settings = [*SMALL, "solver.path=spy.py:step", "out=runs"]
    assert main(["run", *settings]) == 0
    assert Path("RAN").exists()
    Path("RAN").unlink()
    forget()
    assert main(["run", *settings]) == 0
    assert not Path("RAN").exists()


def test_identity_is_that_of_the_imported_function(spy: Path) -> None:
    """A default that is given is no other run, and whole numbers for a float are floats."""
    settings = [*SMALL, "solver.path=spy.py:step"]
    plain, same, other = (run_spec([*settings, *more]) for more in
                          ([], ["solver.share=0.5"], ["solver.share=1"]))  # fmt: skip
    assert plain.digest == same.digest != other.digest
    assert other.solver.options == (("share", 1.0),)
    assert not Path("RAN").exists()
    assert defaults_of(equation_of(other).solver.row) == {"share": 0.5} and Path("RAN").exists()


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("def step(slope, x, sigma, sigma_next, history): pass", {}),
        ("def step(s, x, a, b, h, /, *, levels, n=3, t='a', f=-0.5, b=True): pass",
         {"n": 3, "t": "a", "f": -0.5, "b": True}),
        ("A = 2\ndef step(s, x, a, b, h, *, n=A): pass", {"n": 2}),
        ("A = 2\nA = 3\ndef step(s, x, a, b, h, *, n=A): pass", None),
        ("def step(s, x, a, b, h, *, n=1 / 2): pass", {"n": 0.5}),
        ("def step(s, x, a, b, h, *, n=1 / 0): pass", None),
        ("def step(s, x, a, b, h, *, n='a' * 9): pass", None),
        ("def step(s, x, a, b, h, *, n=open('RAN', 'w')): pass", None),
        ("def step(s, x, a, b, h, **more): pass", None),
        ("def step(s, x, a, b, h): pass\nstep = print", None),
        ("@print\ndef step(): pass", None),
        ("from elsewhere import step", None),
        ("from elsewhere import *", None),
        ("import elsewhere\nstep = elsewhere.make(3)", None),
        ("if True:\n    def step(s, x, a, b, h): pass", None),
    ],
)  # fmt: skip
def test_what_the_text_declares(text: str, options: dict[str, object] | None, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(text)
    found = declared(tmp_path / "a.py", "step", "solver", KINDS["solver"].arguments, ("levels",))
    assert found.options == options


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("def stepp(): pass", "did you mean 'stepp'"),
        ("def step(x): pass", "takes .x.; a solver takes"),
        ("def step(:", "cannot be imported: SyntaxError"),
        ("(" * 100_000, "cannot be imported"),
        ("\0", "cannot be imported"),
    ],
)
def test_mistakes_that_the_text_shows(text: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(text)
    with pytest.raises(UserError, match=named):
        declared(tmp_path / "a.py", "step", "solver", KINDS["solver"].arguments)


def test_options_that_only_a_run_can_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.py").write_text("import functools\ndef base(s, x, a, b, h, *, n=1): pass\n"
                            "step = functools.partial(base, n=2)\n")  # fmt: skip
    spec = run_spec([*SMALL, "solver.path=a.py:step", "solver.n=2", "solver.m=3"])
    assert spec.solver.options == (("m", 3), ("n", 2))
    with pytest.raises(UserError, match="has no option 'm'"):
        equation_of(spec)
