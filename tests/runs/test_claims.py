"""Claims on blocks: within a process, and where a file system has no locks."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

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
