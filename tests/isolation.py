"""Keeps tests apart from the checkout's runs, the cache, the home and the environment of their caller."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# What a test sees of the environment: where programs, scratch space and devices are, and pytest's own
# (PYTEST_). The rest (launchers, trackers, caches, proxies, locales) could change what a test finds.
KEPT = (
    "PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "USER", "LOGNAME", "VIRTUAL_ENV",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS",
)  # fmt: skip
KEPT_PREFIXES = ("CUDA_", "NVIDIA_", "COV_")

IN_CI = bool(os.environ.get("CI"))  # read before tests see an environment of their own

# Audit events of Python that name files, and how many of their arguments do.
_FILES = {
    "open": 1, "os.listdir": 1, "os.scandir": 1, "os.mkdir": 1, "os.remove": 1, "os.rmdir": 1,
    "os.truncate": 1, "os.utime": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2,
}  # fmt: skip


class Isolation:
    """The environment of a test session, and what its tests touched that is not theirs.

    shared: a folder for what all tests may share. Made before anything is imported that reads the environment
    once, such as a tracker or a hub. home: the real one. own: folders that may be read though they lie in it.
    """

    def __init__(self, shared: Path) -> None:
        self.home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() fails where there is none
        kept = {
            name: value
            for name, value in os.environ.items()
            if name in KEPT or name.startswith(KEPT_PREFIXES)
        }
        # matplotlib looks through all fonts once for each such folder.
        self._base = kept | {"ERK_BENCH_OFFLINE": "1", "MPLCONFIGDIR": str(shared / "matplotlib")}
        self._base["TRITON_CACHE_DIR"] = str(shared / "triton")  # else in a home that is looked up once
        self.own = (str(ROOT), tempfile.gettempdir(), sys.prefix, sys.base_prefix, *filter(None, sys.path))
        self.touched: list[str] = []
        self.results: list[str] = []  # of the checkout, apart from its runs
        self._replace(self._base | _places(shared))
        sys.addaudithook(self._watch)

    @contextmanager
    def within(self, folder: Path) -> Iterator[None]:
        """Home, cache and working folder in `folder`, which is empty, until the end of the block."""
        work, before = folder / "work", Path.cwd()
        work.mkdir()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        self._replace(self._base | _places(folder))
        os.chdir(work)
        try:
            yield
        finally:
            os.chdir(before)
            self._replace(environment)

    @staticmethod
    def _replace(environment: dict[str, str]) -> None:
        for name in set(os.environ) - set(environment):
            if not name.startswith("PYTEST_"):  # pytest's notes on the test that runs
                del os.environ[name]
        os.environ.update(environment)

    def _watch(self, event: str, arguments: tuple[object, ...]) -> None:
        """Note files of the checkout's runs or of the real home, and programs that start in the checkout."""
        if event in _FILES:
            for path in arguments[: _FILES[event]]:
                if not isinstance(path, (str, bytes, os.PathLike)):
                    continue
                text = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - a link is the test's own
                if self._is_foreign(text):
                    self.touched.append(f"{event} {text}")
                elif _is_within(text, str(ROOT / "results")):
                    self.results.append(f"{event} {text}")
        elif event == "subprocess.Popen" and Path(str(arguments[2] or ".")).resolve() == ROOT:
            self.touched.append(f"a program in the checkout, whose runs it would find: {arguments[1]}")

    def _is_foreign(self, text: str) -> bool:
        if _is_within(text, str(ROOT / "results" / "runs")):
            return True
        if not _is_within(text, self.home) or self.home in ("~", "/"):
            return False
        return not any(_is_within(text, folder) for folder in self.own)


def _places(folder: Path) -> dict[str, str]:
    """A home, a cache and a lock file in a folder."""
    home = folder / "home"
    home.mkdir()
    return {
        "HOME": str(home),
        "ERK_BENCH_CACHE": str(folder / "cache"),
        "ERK_BENCH_LOCK": str(folder / "assets.lock"),
    }


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")
