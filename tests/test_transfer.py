"""How choices of (w_stiff, w_con) carry over, as scripts/transfer.py tells it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
HEAD = (
    "guidance,schedule.num_steps,correction.w_stiff,correction.w_con,fd_digits_difference,"
    "fd_digits_difference_se,verdict\n"
)


@pytest.fixture
def transfer(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("transfer")


def test_every_best_pair_is_used_everywhere(transfer: Any, tmp_path: Path) -> None:
    chosen, other = tmp_path / "a.csv", tmp_path / "b.csv"
    chosen.write_text(
        f"{HEAD}none,4,0.5,0,-0.3,0.1,better\nnone,4,1.0,0,0.2,0.1,not resolved\n"
        "none,6,0.5,0,-0.1,0.1,not resolved\nnone,6,1.0,0,-0.2,0.1,not resolved\n"
    )
    other.write_text(f"{HEAD}cfg,4,0.5,0,0.7,0.1,worse\ncfg,4,1.0,0,-0.4,0.1,better\n")
    page = transfer.transfer({"chosen": chosen, "other seeds": other})
    first, second = page.split("## ")[1:]
    assert first.startswith("(0.5, 0), the best of: no guidance, 4 steps\n")
    assert "| no guidance, 4 steps | -0.300 ± 0.100 | better | -0.300 ± 0.100 (0.5, 0) |" in first
    assert "| cfg, 4 steps, other seeds | +0.700 ± 0.100 | worse | -0.400 ± 0.100 (1.0, 0) |" in first
    assert second.startswith("(1.0, 0), the best of: no guidance, 6 steps\n") and second.count("\n| ") == 4
