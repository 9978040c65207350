"""The user's own folder in a cache that others may write."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from erk_bench.base.errors import UserError
from erk_bench.base.private import private_folder


def test_it_is_made_for_one_user(tmp_path: Path) -> None:
    with private_folder(tmp_path / "cache" / "own") as own:
        own.write("a", b"text")
        assert own.read("a") == b"text" and own.read("absent") == b""
    assert (tmp_path / "cache" / "own").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o750, 0o701])
def test_folders_open_to_others_are_refused(mode: int, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own").chmod(mode)
    with (
        pytest.raises(UserError, match=f"others may use it .mode {mode:o}"),
        private_folder(tmp_path / "own"),
    ):
        pass


def test_folders_of_others_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir(mode=0o700)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(UserError, match=f"it belongs to user {owner}"), private_folder(tmp_path / "own"):
        pass


@pytest.mark.parametrize("kind", ["link", "dangling link", "file", "pipe"])
def test_what_is_no_folder_is_refused(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "own"
    if kind == "file":
        place.touch()
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        (tmp_path / "elsewhere").mkdir(mode=0o700) if kind == "link" else None
        place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="not a folder of yours alone"), private_folder(place):
        pass


@pytest.mark.parametrize("planted", ["a", "a.PID.tmp"])
def test_writing_follows_no_links(planted: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    with private_folder(tmp_path / "own") as own:
        (own.path / planted.replace("PID", str(os.getpid()))).symlink_to(victim)
        own.write("a", b"text")
        assert own.read("a") == b"text"
    assert victim.read_text() == "precious"


def test_moving_makes_folders_and_follows_no_links(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with private_folder(cache / "own") as own:
        own.write("a", b"1")
        own.move("a", cache, cache / "x" / "y" / "b")
        assert (cache / "x" / "y" / "b").read_bytes() == b"1"
        (tmp_path / "elsewhere").mkdir()
        (cache / "link").symlink_to(tmp_path / "elsewhere")
        (cache / "x" / "c").symlink_to(tmp_path / "elsewhere" / "c")
        own.write("a", b"2")
        with pytest.raises(UserError, match="link' is a link or no folder"):
            own.move("a", cache, cache / "link" / "b")
        own.move("a", cache, cache / "x" / "c")  # the link itself is replaced
        assert (cache / "x" / "c").read_bytes() == b"2" and not (cache / "x" / "c").is_symlink()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_one_at_a_time(tmp_path: Path) -> None:
    inside = []

    def work(number: int) -> int:
        with private_folder(tmp_path / "own") as own, own.lock("busy"):
            inside.append(number)
            assert len(inside) == 1
            inside.remove(number)
        return number

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(40))) == list(range(40))
