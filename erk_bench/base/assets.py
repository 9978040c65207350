"""Files that numbers depend on: shipped with the package, the user's own, or fetched into one cache.

An address is 'package:PATH', 'installed:PACKAGE/PATH' of another Python package, 'SOURCE:PATH' with a key of
SOURCES, an http(s) URL, or a local path. Fetched files, and those of other packages, are verified against a
lock file of sha256 hashes; a hash of a fetched file that it does not know is recorded at first use, if the
file is of a kind that we read, and enforced from then on. The cache may be shared: what is used is hashed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from erk_bench.base.config_files import config_folder
from erk_bench.base.contents import content_problem
from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.extras import EXTRAS, need
from erk_bench.base.file_names import name_problem
from erk_bench.base.files import facts_of, file_sha256, fresh_sha256, writing
from erk_bench.base.lock_file import LockFile
from erk_bench.base.private import PrivateFolder, private_folder
from erk_bench.base.sources import INSTALLED, PACKAGE, SOURCES

SETTLED_S = 2.0  # a file of others that changed later than that may change again within one tick of the clock


@dataclass(frozen=True)
class Assets:
    """The cache of fetched files. cache: its folder; lock: the lock file; offline: never use the network."""

    cache: Path
    lock: Path
    offline: bool = False
    mirrors: tuple[tuple[str, str], ...] = ()  # source, base URL

    @classmethod
    def from_environment(cls, offline: bool = False, environment: Mapping[str, str] = os.environ) -> Assets:
        """ERK_BENCH_CACHE (default ~/.cache/erk-bench), ERK_BENCH_LOCK (default configs/assets.lock),
        ERK_BENCH_OFFLINE=1, and a mirror's base URL in ERK_BENCH_MIRROR_EDM2 (_HUGGINGFACE, ...)."""
        home = environment.get("XDG_CACHE_HOME") or "~/.cache"
        cache = Path(environment.get("ERK_BENCH_CACHE") or f"{home}/erk-bench").expanduser()
        shipped = config_folder() / "assets.lock"
        lock = Path(environment.get("ERK_BENCH_LOCK") or shipped).expanduser()
        mirrors = {}
        for name, value in environment.items():
            if name.startswith("ERK_BENCH_MIRROR_") and value:
                source = name.removeprefix("ERK_BENCH_MIRROR_").lower()
                if source not in SOURCES:
                    known = [f"ERK_BENCH_MIRROR_{key.upper()}" for key in SOURCES]
                    raise unknown_name("mirror variable", name, known)
                if not value.startswith(("http://", "https://")):
                    raise UserError(
                        f"{name} is '{value}'; expected a base address, http://... or https://..."
                    )
                mirrors[source] = value.rstrip("/")
        offline = offline or environment.get("ERK_BENCH_OFFLINE", "") not in ("", "0")
        return cls(cache, lock, offline, tuple(sorted(mirrors.items())))

    def url(self, address: str) -> str | None:
        """Where `address` is fetched from; None for files that are not fetched."""
        if address.startswith(("http://", "https://")):
            return address
        source, colon, path = address.partition(":")
        if not colon or address.startswith(PACKAGE) or source not in SOURCES:
            if "://" in address:
                raise UserError(f"'{address}' is no address of ours; use https://..., or a local path")
            return None
        return f"{dict(self.mirrors).get(source, SOURCES[source].url)}/{path}"

    def path(self, address: str) -> Path:
        """Where the file of `address` lies, or would lie. Raises UserError for what can be no address."""
        if address.startswith(PACKAGE):
            return Path(__file__).parent.parent / address.removeprefix(PACKAGE)
        if address.startswith(INSTALLED):
            return _installed_path(address.removeprefix(INSTALLED))
        if self.url(address) is None:
            return _local_path(address)
        if not address.isprintable() or " " in address:
            raise UserError(
                f"the address {address!r} has spaces or control characters; write them as %20 and so on"
            )
        if address.startswith(("http://", "https://")):
            try:
                parts = urlsplit(address)
            except ValueError as error:
                raise UserError(f"'{address}' is no address: {error}; check it") from error
            # The same name from two addresses must not collide.
            folder = hashlib.sha256(address.encode()).hexdigest()[:8]
            names = ["url", parts.netloc.replace(":", "_"), folder, Path(parts.path).name or "index"]
        else:
            source, _, path = address.partition(":")
            names = [source, *path.split("/")]
        for name in names:
            if name in ("", ".", ".."):
                raise UserError(
                    f"'{address}' leaves the cache; write SOURCE:FOLDER/FILE, without '..' or '//'"
                )
            if name_problem(name):
                raise UserError(
                    f"the part '{name[:80]}' of '{address[:200]}' {name_problem(name)}; check the address"
                )
        return self.cache.joinpath(*names)

    def is_here(self, address: str) -> bool:
        return self.path(address).is_file()

    def locate(self, address: str) -> Path:
        """The local file of `address`, fetched and verified if it is not there yet.

        Raises UserError, naming the next step, when it is missing, cannot be fetched or has another hash.
        """
        url, path = self.url(address), self.path(address)
        if url is None:
            if not path.is_file():
                package = address.startswith(PACKAGE)
                hint = "the installation is incomplete: install the package again"
                raise UserError(
                    f"no file at '{path}'; {hint if package else 'check the path, or give another one'}"
                )
            if address.startswith(INSTALLED):
                self.sha256(address)
            return path
        if not path.is_file():
            self._fetch(address, url, path)
        self.sha256(address)
        return path

    def sha256(self, address: str) -> str:
        """The hash of a file that is here. Raises UserError where the lock file says another one."""
        path = self.path(address)
        if self.url(address) is None:
            found = file_sha256(path)
            if address.startswith(INSTALLED) and not found.startswith(self.expected_sha256(address) or ""):
                raise UserError(
                    f"'{path}' has sha256 {found}, but the lock file says {self.expected_sha256(address)}; "
                    "install the package's version that pyproject.toml names"
                )
            return found
        if not path.is_file():
            raise UserError(f"'{address}' is not in the cache; run 'erk-bench fetch' with the same settings")
        found = self._verified_sha256(path)
        problem = self._problem(address, path, found)
        if problem:
            raise UserError(
                f"'{path}' {problem}. Delete it to fetch it again; delete the line of '{address}' in the "
                "lock file to accept another one"
            )
        self._record(address, found)
        return found

    def expected_sha256(self, address: str) -> str | None:
        """The locked hash of `address` (perhaps a prefix), here or not; None where none is known."""
        return self._locked(address)[0] or None

    def _locks(self) -> list[Path]:
        """The lock files that hold: the user's, and one of the user's own in the cache."""
        return [self.lock, self.private / "assets.lock"] if self._has_private() else [self.lock]

    def _locked(self, address: str) -> tuple[str, Path]:
        """The longest known hash of `address` and the lock file that has it."""
        found = [(LockFile(lock).read().get(address, ""), lock) for lock in self._locks()]
        return max(found, key=lambda item: len(item[0]))  # the first of equal length

    def _problem(self, address: str, file: Path, found: str) -> str:
        """What speaks against `file`, of sha256 `found`, as the file of `address`; "" for nothing.

        A hash that is wholly known decides alone. Before another one is recorded, the file must be of a kind
        that we read, and no other address may have the same: a server that answers everything with one page.
        """
        expected, lock = self._locked(address)
        if len(expected) == 64 and found == expected:
            return ""
        name = self.path(address).name
        problem = content_problem(name, file)
        if not found.startswith(expected):
            what = f"{problem}, and " if problem else ""
            return (
                f"{what}has sha256 {found}, but {lock} says {expected}; the file is damaged or was changed "
                "by its publisher"
            )
        if problem:
            return problem
        # Settings may rightly be the same for two networks.
        others = () if name.endswith(".json") else self._addresses_of(found)
        return next(
            (f"has the same sha256 as '{other}': {found}" for other in others if other != address), ""
        )

    def _addresses_of(self, sha256: str) -> list[str]:
        entries = [LockFile(lock).read() for lock in self._locks()]
        return [address for found in entries for address, known in found.items() if known == sha256]

    def verify(self, address: str) -> None:
        """Hash the file again, whatever is remembered of it, and compare it with the lock file."""
        path = self.path(address)
        if self.url(address) is not None and path.is_file():
            self._remember(path, facts_of(path), fresh_sha256(path))
        self.sha256(address)

    def _record(self, address: str, sha256: str) -> None:
        """Note a hash that no lock file has yet."""
        if self.expected_sha256(address) == sha256:
            return
        # An installed package's configs/ may be read-only, or shared by users.
        with suppress(OSError):
            self.lock.parent.mkdir(parents=True, exist_ok=True)
        if os.access(self.lock if self.lock.exists() else self.lock.parent, os.W_OK):
            with writing(self.lock), FileLock(self.lock.with_name(f".{self.lock.name}.busy")):
                LockFile(self.lock).record(address, sha256)
            return
        with private_folder(self.private) as own, own.lock("assets.lock.busy"):
            LockFile(own.path / "assets.lock").record(address, sha256)

    @property
    def private(self) -> Path:
        """The user's own folder in the cache, which others may write too."""
        return self.cache / f".user-{os.geteuid()}"

    def _has_private(self) -> bool:
        if not self.private.exists():
            return False
        with private_folder(self.private):
            return True

    def _verified_sha256(self, path: Path) -> str:
        """Hashing gigabytes at every start would cost minutes: the hash is kept while the file is the same.

        It is kept where nobody else can write it, with facts that nobody can set: a file's number and the
        time of its last change of any kind.
        """
        facts = facts_of(path)
        noted = self._verdicts().get(str(path))
        if noted is not None and noted[1:] == list(facts):
            return str(noted[0])
        digest = file_sha256(path)  # hashed once a process, even where it cannot be remembered
        self._remember(path, facts, digest)
        return digest

    def _verdicts(self) -> dict[str, list[Any]]:
        if not self.private.exists():
            return {}
        with private_folder(self.private) as own:
            return _read_verdicts(own)

    def _remember(self, path: Path, facts: tuple[int, ...], digest: str) -> None:
        if facts_of(path) != facts or not _is_settled(path):
            return  # changed meanwhile, or it may change unseen within the same tick of the clock
        if not (self.private.exists() or os.access(self.cache, os.W_OK)):
            return
        with private_folder(self.private) as own, own.lock("verified.busy"):
            own.write(
                "verified.json", json.dumps({**_read_verdicts(own), str(path): [digest, *facts]}).encode()
            )

    def _fetch(self, address: str, url: str, path: Path) -> None:
        if self.offline:
            raise UserError(
                f"'{address}' is not in the cache, and offline=true. Put the file at '{path}' (from {url}), "
                "or run 'erk-bench fetch' with the same settings where there is a network"
            )
        from erk_bench.base.download import download

        name = f"{hashlib.sha256(address.encode()).hexdigest()[:16]}.part"
        # Ranks of one launch meet here: the first fetches, the others find the file.
        with private_folder(self.private) as own, own.lock(f"{name}.busy"):
            if path.is_file():
                return
            download(url, own, name, path.name)
            found = fresh_sha256(own.path / name)
            problem = self._problem(address, own.path / name, found)
            own.remove(f"{name}.json")
            if problem:
                own.remove(name)
                raise UserError(
                    f"{url} gave a file that {problem}. It was not kept: check the address, and whether it "
                    "asks for a login. If the publisher has replaced the file and you accept it, delete the "
                    f"line of '{address}' in the lock file"
                )
            own.move(name, self.cache, path)
            self._record(address, found)


def _installed_path(text: str) -> Path:
    """The file PACKAGE/PATH of a package of EXTRAS. Raises UserError where there is none."""
    package, _, path = text.partition("/")
    if package not in EXTRAS:
        raise unknown_name("package in an address", package, EXTRAS)
    return Path(need(package, f"'{INSTALLED}{text}'").__file__).parent / path


def _local_path(text: str) -> Path:
    try:
        path = Path(text).expanduser()
        path.is_file()
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{text[:200]!r} can be no file: {error}; check the path") from error
    return path


def _is_settled(path: Path) -> bool:
    """Whether only this user can change the file, or its last change is not of this very moment."""
    facts = path.stat()
    own = facts.st_uid == os.geteuid() and not facts.st_mode & 0o022
    return own or time.time() - facts.st_ctime > SETTLED_S


def _read_verdicts(own: PrivateFolder) -> dict[str, list[Any]]:
    try:
        content = json.loads(own.read("verified.json") or b"{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
