"""Claims on blocks: within a process, and where a file system has no locks."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from erk_bench.runs import claims as claims_module
from erk_bench.runs.blocks import Block
from erk_bench.runs.claims import Claims


def test_what_is_taken_can_be_given_back(tmp_path: Path) -> None:
    claims = Claims(tmp_path / "blocks")
    assert claims.usable
    for index in (0, 7, 10_000_000):
        assert claims.take("a", Block(index, 8))
        claims.release("a", Block(index, 8))
    claims.close()
    assert (tmp_path / "blocks").stat().st_size == 0


def test_without_locks_every_claim_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    claims = Claims(tmp_path / "blocks")
    assert not claims.usable
    assert claims.take("a", Block(0, 8)) and claims.take("a", Block(0, 8))
    claims.release("a", Block(0, 8))
    claims.close()


def test_others_look_once_somebody_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes; what an earlier launch told is nothing to those that begin later."""
    earlier = Claims(tmp_path / "blocks")
    earlier.tell_others()
    first, second = Claims(tmp_path / "blocks"), Claims(tmp_path / "blocks")
    monkeypatch.setattr(claims_module, "LOOK_S", 0.0)
    assert not first.others_may_have_done() and not second.others_may_have_done()
    second.tell_others()
    assert first.others_may_have_done()
    monkeypatch.setattr(claims_module, "LOOK_S", 100.0)
    third = Claims(tmp_path / "blocks")
    first.tell_others()
    assert not third.others_may_have_done()  # it looked a moment ago
    for each in (earlier, first, second, third):
        each.close()
