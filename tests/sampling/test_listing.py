"""A solver is tested by being listed: the README's steps, and then the suite as it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RALSTON = '''

def ralston_step(
    slope: Slope, x: Tensor, sigma: float, sigma_next: float, history: Sequence[Step], *, share: float = 2 / 3
) -> Step:
    """Ralston's method (1962): the second slope at two thirds of the step."""
    h = sigma - sigma_next
    node = Node(x, slope(x, sigma), sigma)
    middle = x - share * h * node.slope
    ahead = Node(middle, slope(middle, sigma - share * h), sigma - share * h)
    x_next = x - h * ((1 - 0.5 / share) * node.slope + 0.5 / share * ahead.slope)
    return Step(x_next, node, ahead, h, None)


SOLVERS["ralston"] = Solver(
    ralston_step, title="Ralston", order=ORDER, evaluations=2, paired=True,
    options={"share": Numbers(0, 1, open=True)},
)
'''
WORDS = (
    "solver",
    "order",
    "evaluation",
    "published_noise",
    "batch",
    "compose",
    "tables_and_groups",
    "table4",
)
PART = f"not own and ({' or '.join(WORDS)})"


@pytest.mark.slow
@pytest.mark.results
@pytest.mark.parametrize(("order", "passes"), [(2, True), (3, False)])
def test_a_solver_listed_by_the_readmes_steps(tmp_path: Path, order: int, passes: bool) -> None:
    """A function, a row and a file, nothing else; a wrong fact in the row fails."""
    for name in ("erk_bench", "configs", "tests", "scripts", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "results").symlink_to(ROOT / "results")
    solvers = tmp_path / "erk_bench" / "sampling" / "solvers.py"
    solvers.write_text(solvers.read_text() + RALSTON.replace("ORDER", str(order)))
    heun = (ROOT / "configs" / "solver" / "heun.yaml").read_text()
    config = tmp_path / "configs" / "solver" / "ralston.yaml"
    config.write_text(heun.replace("name: heun", "name: ralston\nshare: 0.6666666666666666"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/sampling/test_solvers.py",
         "tests/test_cli.py", "-k", PART],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode == 0) == passes, done.stdout[-3000:]
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert all("ralston" in line and "order" in line for line in failed)
