"""Progress and tables where nothing is a terminal."""

from __future__ import annotations

import pytest

from erk_bench.base.console import wide_console
from erk_bench.base.progress import progress_bar


def test_nothing_is_overwritten_in_a_notebook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kernel asks for colours, and its output is kept: no animation, tables as wide as they need."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar("run", 40, 40, shown=True) as advance:
        advance(40, 40)
    assert "\x1b[2K" not in capsys.readouterr().err
    assert wide_console().width == 170
