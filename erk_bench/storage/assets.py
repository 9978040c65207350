"""Files that numbers depend on: shipped with the package, the user's own, or fetched into one cache.

An address is 'package:PATH', 'SOURCE:PATH' with a key of SOURCES, an http(s) URL, or a local path. Fetched
files are verified against a lock file of sha256 hashes; a hash that it does not know is recorded at first use
and enforced from then on.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from filelock import FileLock

from erk_bench.config_files import config_folder
from erk_bench.errors import UserError, unknown_name
from erk_bench.files import file_sha256, fresh_sha256, write_atomic, writing

PACKAGE = "package:"  # package:digits/weights/denoiser.safetensors


class Source(NamedTuple):
    """Where published files come from. url: base address, replaced by ERK_BENCH_MIRROR_NAME if set."""

    url: str
    licence: str


SOURCES: dict[str, Source] = {
    "edm2": Source("https://nvlabs-fi-cdn.nvidia.com/edm2", "CC BY-NC-SA 4.0"),
    "edm": Source("https://nvlabs-fi-cdn.nvidia.com/edm", "CC BY-NC-SA 4.0"),
    "huggingface": Source("https://huggingface.co", "MIT (sd-vae-ft-mse)"),
    "torch_fidelity": Source(
        "https://github.com/toshas/torch-fidelity/releases/download", "Apache-2.0 (Inception weights)"
    ),
    "pytorch": Source("https://download.pytorch.org/models", "BSD-3-Clause (VGG-16 weights)"),
    "dinov2": Source("https://dl.fbaipublicfiles.com/dinov2", "Apache-2.0"),
}


class LockFile:
    """Lines of 'SHA256  ADDRESS'; the hash may be a prefix of 8 or more digits where no more is published."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, str]:
        """Hash by address. Raises UserError for a line that is neither a comment nor an entry."""
        try:
            lines = self.path.read_text().splitlines()
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the lock file '{self.path}': {error}; check it") from error
        entries = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            match = re.fullmatch(r"([0-9a-f]{8,64})  (\S+)", line)
            if match is None:
                raise UserError(
                    f"line {number} of '{self.path}' is '{line}'; expected 'SHA256  ADDRESS': put it right, "
                    "or delete it to record the hash anew"
                )
            entries[match[2]] = match[1]
        return entries

    def record(self, address: str, sha256: str) -> None:
        """Add or complete the entry of `address`, keeping comments and other lines."""
        entry = f"{sha256}  {address}"
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        kept = [line for line in lines if line.split("  ")[-1] != address]
        write_atomic(self.path, ("\n".join([*kept, entry]) + "\n").encode())


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
        """Where the file of `address` lies, or would lie."""
        if address.startswith(PACKAGE):
            return Path(__file__).parent.parent / address.removeprefix(PACKAGE)
        if self.url(address) is None:
            return Path(address).expanduser()
        if address.startswith(("http://", "https://")):
            parts = urlsplit(address)
            name = Path(parts.path).name or "index"
            # The same name from two addresses must not collide.
            folder = hashlib.sha256(address.encode()).hexdigest()[:8]
            return self.cache / "url" / parts.netloc.replace(":", "_") / folder / name
        source, _, path = address.partition(":")
        if not all(part and part != ".." for part in path.split("/")):
            raise UserError(f"'{address}' leaves the cache; write SOURCE:FOLDER/FILE, without '..' or '//'")
        return self.cache / source / path

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
            return path
        if not path.is_file():
            self._fetch(address, url, path)
        self.sha256(address)
        return path

    def sha256(self, address: str) -> str:
        """The hash of a file that is here. Raises UserError where the lock file says another one."""
        path = self.path(address)
        if self.url(address) is None:
            return file_sha256(path)
        if not path.is_file():
            raise UserError(f"'{address}' is not in the cache; run 'erk-bench fetch' with the same settings")
        found = self._remembered_sha256(path)
        expected = self.expected_sha256(address)
        if expected is None or (len(expected) < 64 and found.startswith(expected)):
            self._record(address, found)
        elif found != expected:
            lock = self._locked(address)[1]
            raise UserError(
                f"'{path}' has sha256 {found}, but {lock} says {expected}; the file is damaged or was "
                f"changed by its publisher. Delete it to fetch it again; delete the line of '{address}' in "
                "the lock file to accept the new one"
            )
        return found

    def expected_sha256(self, address: str) -> str | None:
        """The locked hash of `address` (perhaps a prefix), here or not; None where none is known."""
        return self._locked(address)[0] or None

    def _locked(self, address: str) -> tuple[str, Path]:
        """The longest known hash of `address` and the lock file that has it."""
        locks = (self.lock, self.cache / "assets.lock")
        found = [(LockFile(lock).read().get(address, ""), lock) for lock in locks]
        return max(found, key=lambda item: len(item[0]))  # the first of equal length

    def verify(self, address: str) -> None:
        """Hash the file again, whatever is remembered of it, and compare it with the lock file."""
        path = self.path(address)
        if self.url(address) is not None and path.is_file():
            self._remember(path, fresh_sha256(path))
        self.sha256(address)

    def _record(self, address: str, sha256: str) -> None:
        # An installed package's configs/ may be read-only, or shared by users.
        with suppress(OSError):
            self.lock.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(self.lock if self.lock.exists() else self.lock.parent, os.W_OK)
        lock = self.lock if writable else self.cache / "assets.lock"
        with writing(lock), FileLock(_busy(lock)):
            LockFile(lock).record(address, sha256)

    def _memo(self, path: Path) -> Path:
        return path.with_name(f".{path.name}.sha256")

    def _remembered_sha256(self, path: Path) -> str:
        """Hashing gigabytes at every start would cost minutes: the hash is kept while size and time stay."""
        facts = path.stat()
        state = [facts.st_size, facts.st_mtime_ns]
        try:
            content = json.loads(self._memo(path).read_text())
            if content["state"] == state:
                return str(content["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # none yet, or torn: hash the file
        digest = file_sha256(path)  # hashed once a process, even where it cannot be remembered
        self._remember(path, digest)
        return digest

    def _remember(self, path: Path, digest: str) -> None:
        facts = path.stat()
        content = {"sha256": digest, "state": [facts.st_size, facts.st_mtime_ns]}
        if os.access(path.parent, os.W_OK):
            write_atomic(self._memo(path), json.dumps(content).encode())

    def _fetch(self, address: str, url: str, path: Path) -> None:
        if self.offline:
            raise UserError(
                f"'{address}' is not in the cache, and offline=true. Put the file at '{path}' (from {url}), "
                "or run 'erk-bench fetch' with the same settings where there is a network"
            )
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        # Ranks of one launch meet here: the first fetches, the others find the file.
        with FileLock(_busy(path)):
            if path.is_file():
                return
            partial = path.with_name(f"{path.name}.part")
            download(url, partial, path.name)
            found = fresh_sha256(partial)
            expected, lock = self._locked(address)
            if not found.startswith(expected):
                partial.unlink()
                raise UserError(
                    f"{url} gave a file of sha256 {found}, but {lock} says {expected}; it was not "
                    "kept. Try again; if the publisher has replaced the file and you accept it, delete the "
                    f"line of '{address}' in the lock file"
                )
            with writing(path):
                partial.replace(path)


def _busy(path: Path) -> Path:
    """The file at which processes meet that would write `path`."""
    return path.with_name(f".{path.name}.busy")


def download(url: str, partial: Path, title: str) -> None:
    """Fetch `url` into `partial`, going on where an earlier attempt stopped, with a progress bar.

    Raises UserError; what has arrived is kept for the next attempt.
    """
    # Imported here: it takes a second, and most commands never fetch.
    from huggingface_hub.file_download import http_get

    try:
        with partial.open("ab") as file:
            http_get(url, file, resume_size=file.tell(), displayed_filename=title)
    except Exception as error:  # the library's and its HTTP client's own kinds, which change with versions
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the network
            with writing(partial):
                raise
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        kept = "what has arrived is kept"
        if response is not None and status == 416:  # nothing is left to ask for
            whole = str(response.headers.get("Content-Range", "")).rpartition("/")[2]
            if whole == str(partial.stat().st_size):
                return
            partial.unlink()
            kept = "what had arrived was of another file, and is removed"
        text = next(iter(str(error).splitlines()), "")
        reason = f"HTTP status {status}" if status else f"{type(error).__name__}: {text}"
        raise UserError(
            f"cannot fetch {url} ({reason}); {kept}: run the same command again to go on, check the network, "
            "or set a mirror (ERK_BENCH_MIRROR_...)"
        ) from error
