"""Fetching, verifying and finding the files that numbers depend on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from erk_bench.config_files import config_folder
from erk_bench.errors import UserError
from erk_bench.storage.assets import SOURCES, Assets, LockFile
from tests.http_server import FileServer, serving

ADDRESS = "edm2:nets/a.pkl"
CONTENT = bytes(range(256)) * 4000  # 1 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    folder = tmp_path / "served"
    (folder / "nets").mkdir(parents=True)
    (folder / "nets" / "a.pkl").write_bytes(CONTENT)
    with serving(folder) as state:
        yield state


def cache(tmp_path: Path, server: FileServer | None = None, offline: bool = False) -> Assets:
    mirrors = (("edm2", server.url),) if server else ()
    return Assets(tmp_path / "cache", tmp_path / "assets.lock", offline, mirrors)


def test_first_use_fetches_and_records_the_hash(tmp_path: Path, server: FileServer) -> None:
    assets = cache(tmp_path, server)
    assert assets.expected_sha256(ADDRESS) is None and not assets.is_here(ADDRESS)
    path = assets.locate(ADDRESS)
    assert path == tmp_path / "cache" / "edm2" / "nets" / "a.pkl" and path.read_bytes() == CONTENT
    assert assets.expected_sha256(ADDRESS) == SHA256
    assert (tmp_path / "assets.lock").read_text() == f"{SHA256}  {ADDRESS}\n"
    assert not list(path.parent.glob("*.part"))
    assets.locate(ADDRESS)
    assert len(server.requests) == 1  # the second time from the cache


def test_any_address_of_the_web(tmp_path: Path, server: FileServer) -> None:
    (server.folder / "b").mkdir()
    (server.folder / "b" / "a.pkl").write_bytes(b"another")
    assets = cache(tmp_path)
    first, second = (assets.locate(f"{server.url}/{folder}/a.pkl") for folder in ("nets", "b"))
    assert first.name == second.name == "a.pkl" and first.read_bytes() != second.read_bytes()


def test_interrupted_download_goes_on(tmp_path: Path, server: FileServer) -> None:
    assets = cache(tmp_path, server)
    partial = assets.path(ADDRESS).with_name("a.pkl.part")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT[:300_000])
    assert assets.locate(ADDRESS).read_bytes() == CONTENT
    assert server.requests == [("/nets/a.pkl", "bytes=300000-")]


def test_truncated_download_is_told_and_kept(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the download library's retries
    monkeypatch.setattr(
        "huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 500
    )  # what it writes at a time: 10 MB
    server.cut = 1200
    assets = cache(tmp_path, server)
    with pytest.raises(UserError, match="cannot fetch .*nets/a.pkl.*kept.*same command again"):
        assets.locate(ADDRESS)
    assert not assets.is_here(ADDRESS)
    arrived = assets.path(ADDRESS).with_name("a.pkl.part").stat().st_size
    assert 0 < arrived < len(CONTENT)
    server.cut = None
    assert assets.locate(ADDRESS).read_bytes() == CONTENT
    assert server.requests[-1] == ("/nets/a.pkl", f"bytes={arrived}-")


def test_remains_of_another_file_are_not_trusted(tmp_path: Path, server: FileServer) -> None:
    """What an earlier attempt left is not a beginning of this file: the locked hash finds out."""
    assets = cache(tmp_path, server)
    LockFile(assets.lock).record(ADDRESS, SHA256)
    partial = assets.path(ADDRESS).with_name("a.pkl.part")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * 1000)
    with pytest.raises(UserError, match="gave a file of sha256 .* but .*assets.lock says"):
        assets.locate(ADDRESS)
    assert not partial.exists()
    assert assets.locate(ADDRESS).read_bytes() == CONTENT


def test_too_long_remains_start_anew(tmp_path: Path, server: FileServer) -> None:
    assets = cache(tmp_path, server)
    partial = assets.path(ADDRESS).with_name("a.pkl.part")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT + b"more")
    with pytest.raises(UserError, match="HTTP status 416.*was of another file, and is removed"):
        assets.locate(ADDRESS)
    assert assets.locate(ADDRESS).read_bytes() == CONTENT


def test_complete_remains_are_taken(tmp_path: Path, server: FileServer) -> None:
    """Killed between the last byte and the renaming: nothing is fetched twice."""
    assets = cache(tmp_path, server)
    partial = assets.path(ADDRESS).with_name("a.pkl.part")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT)
    assert assets.locate(ADDRESS).read_bytes() == CONTENT
    assert server.requests == [("/nets/a.pkl", f"bytes={len(CONTENT)}-")]
    assert assets.expected_sha256(ADDRESS) == SHA256


def test_wrong_hash_is_refused(tmp_path: Path, server: FileServer) -> None:
    assets = cache(tmp_path, server)
    LockFile(assets.lock).record(ADDRESS, "0" * 64)
    with pytest.raises(UserError, match=f"sha256 {SHA256}, but .*assets.lock says {'0' * 64}.*not kept"):
        assets.locate(ADDRESS)
    assert not assets.is_here(ADDRESS)


def test_published_prefix_is_enforced_and_completed(tmp_path: Path, server: FileServer) -> None:
    """torch's file names tell the first eight digits of their hash."""
    assets = cache(tmp_path, server)
    assets.lock.write_text(f"# a comment\n{SHA256[:8]}  {ADDRESS}\n")
    assets.locate(ADDRESS)
    assert assets.lock.read_text() == f"# a comment\n{SHA256}  {ADDRESS}\n"
    other = cache(tmp_path / "other", server)
    (tmp_path / "other").mkdir()
    other.lock.write_text(f"00000000  {ADDRESS}\n")
    with pytest.raises(UserError, match="says 00000000"):
        other.locate(ADDRESS)


def test_changed_file_in_the_cache_is_found(tmp_path: Path, server: FileServer) -> None:
    assets = cache(tmp_path, server)
    path = assets.locate(ADDRESS)
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(UserError, match="damaged or was changed.*Delete it to fetch it again"):
        assets.locate(ADDRESS)


def test_verify_hashes_again_whatever_is_remembered(tmp_path: Path, server: FileServer) -> None:
    assets = cache(tmp_path, server)
    path = assets.locate(ADDRESS)
    times = path.stat()
    path.write_bytes(CONTENT[:-1] + b"!")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assets.locate(ADDRESS)  # same size and time: trusted
    with pytest.raises(UserError, match="damaged or was changed"):
        Assets(assets.cache, assets.lock).verify(ADDRESS)


def test_offline_names_file_place_and_way(tmp_path: Path, server: FileServer) -> None:
    assets = cache(tmp_path, server, offline=True)
    with pytest.raises(UserError) as caught:
        assets.locate(ADDRESS)
    message = str(caught.value)
    assert (
        ADDRESS in message and str(assets.path(ADDRESS)) in message and f"{server.url}/nets/a.pkl" in message
    )
    assert "erk-bench fetch" in message and server.requests == []
    assets.path(ADDRESS).parent.mkdir(parents=True)
    assets.path(ADDRESS).write_bytes(CONTENT)  # put there by hand
    assert assets.sha256(ADDRESS) == SHA256


def test_absent_on_the_server(tmp_path: Path, server: FileServer) -> None:
    with pytest.raises(UserError, match="nets/b.pkl .HTTP status 404"):
        cache(tmp_path, server).locate("edm2:nets/b.pkl")


def test_unreachable_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assets = Assets(tmp_path / "cache", tmp_path / "lock", False, (("edm2", "http://127.0.0.1:9"),))
    with pytest.raises(UserError, match="cannot fetch http://127.0.0.1:9/nets/a.pkl"):
        assets.locate(ADDRESS)


def test_ranks_fetch_once(tmp_path: Path, server: FileServer) -> None:
    """The lock belongs to an open file, so threads meet at it as processes do."""
    with ThreadPoolExecutor(3) as pool:
        paths = list(pool.map(lambda _: cache(tmp_path, server).locate(ADDRESS), range(3)))
    assert all(path.read_bytes() == CONTENT for path in paths)
    assert len(server.requests) == 1


def test_full_disk_while_fetching(tmp_path: Path, server: FileServer) -> None:
    assets = cache(tmp_path, server)
    partial = assets.path(ADDRESS).with_name("a.pkl.part")
    partial.parent.mkdir(parents=True)
    partial.symlink_to("/dev/full")
    with pytest.raises(UserError, match="disk full while writing"):
        assets.locate(ADDRESS)


def test_environment(tmp_path: Path) -> None:
    plain = Assets.from_environment(environment={"XDG_CACHE_HOME": "/x"})
    assert plain.cache == Path("/x/erk-bench") and plain.lock == config_folder() / "assets.lock"
    assert not plain.offline and plain.url(ADDRESS) == f"{SOURCES['edm2'].url}/nets/a.pkl"
    assert Assets.from_environment(environment={"ERK_BENCH_OFFLINE": "1"}).offline
    own = Assets.from_environment(
        environment={"ERK_BENCH_CACHE": "/c", "ERK_BENCH_LOCK": "/l", "ERK_BENCH_MIRROR_EDM2": "http://m/e/"}
    )
    assert own == Assets(Path("/c"), Path("/l"), False, (("edm2", "http://m/e"),))
    assert own.url(ADDRESS) == "http://m/e/nets/a.pkl"
    with pytest.raises(UserError, match="did you mean 'ERK_BENCH_MIRROR_EDM2'"):
        Assets.from_environment(environment={"ERK_BENCH_MIRROR_EDM22": "http://m"})
    with pytest.raises(UserError, match="expected a base address"):
        Assets.from_environment(environment={"ERK_BENCH_MIRROR_EDM2": "/folder"})


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("edm2:../../etc/passwd", "leaves the cache"),
        ("edm2:/etc/passwd", "leaves the cache"),
        ("ftp://host/file", "use https://"),
        ("absent/file.pkl", "no file at 'absent/file.pkl'"),
        ("package:digits/absent", "install the package again"),
    ],
)
def test_bad_addresses(address: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=named):
        cache(tmp_path).locate(address)


def test_lock_file_in_a_new_folder(tmp_path: Path, server: FileServer) -> None:
    assets = Assets(tmp_path / "cache", tmp_path / "new" / "lock", False, (("edm2", server.url),))
    assets.locate(ADDRESS)
    assert SHA256 in (tmp_path / "new" / "lock").read_text()


def test_lock_file_that_cannot_be_written(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed package's lock file: hashes go beside the cache, and hold from there."""
    assets = cache(tmp_path, server)
    assets.lock.write_text("# shipped\n")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != assets.lock and access(path, mode))
    assets.locate(ADDRESS)
    assert assets.lock.read_text() == "# shipped\n" and assets.expected_sha256(ADDRESS) == SHA256
    assets.path(ADDRESS).write_bytes(b"other")
    with pytest.raises(UserError, match=f"but {assets.cache}/assets.lock says"):
        assets.locate(ADDRESS)


def test_broken_lock_file(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("nonsense\n")
    with pytest.raises(UserError, match="line 1 of .* is 'nonsense'; expected 'SHA256  ADDRESS'"):
        LockFile(lock).read()


def test_shipped_lock_file_is_sound() -> None:
    entries = LockFile(config_folder() / "assets.lock").read()
    assert all(address.partition(":")[0] in SOURCES for address in entries) and entries
