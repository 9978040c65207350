"""What a fetched file is: looked at before its hash is recorded, so that no login page becomes a checkpoint.

Nothing in a file is run, nothing large is read into memory: hashes and readers come later.
"""

from __future__ import annotations

import json
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open

from erk_bench.base.errors import UserError
from erk_bench.base.pickles import CHECKPOINT_GLOBALS, STATISTICS_GLOBALS
from erk_bench.base.state_dicts import read_state_dict

HEAD = 512  # bytes that tell a text from a binary file
LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the first pickle of torch.save before zip files
MOST_JSON = 10_000_000  # bytes
LARGE = 65_536  # arguments of a pickle that are passed over: tensors
LINE = 65_536  # longest line of a pickle's text arguments
ALLOWED = CHECKPOINT_GLOBALS.keys() | STATISTICS_GLOBALS.keys()


def start_problem(name: str, head: bytes) -> str:
    """What is wrong with a file `name` that begins with `head` (HEAD bytes, or all of it); "" for nothing."""
    if not head:
        return "is empty"
    if name.endswith(".json"):
        return "" if head.lstrip()[:1] == b"{" else f"is no JSON object, but begins with {head[:40]!r}"
    text = _as_text(head)
    if text is None:
        return ""
    if text.startswith("version https://git-lfs"):
        return "is a Git LFS pointer, not the file that it points to"
    if text.startswith("<"):
        return "is an HTML or XML page, perhaps a login or an error"
    if text.startswith(("{", "[")):
        return f"is a JSON text, perhaps an error: {text[:80]!r}"
    return f"is a text: {text[:80]!r}"


def _as_text(head: bytes) -> str | None:
    """The beginning of a text without leading space; None for binary files."""
    if b"\0" in head or (head[0] >= 0x80 and not head.startswith(b"\xef\xbb\xbf")):
        return None
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    strange = sum(
        char == "\N{REPLACEMENT CHARACTER}" or not (char.isprintable() or char.isspace()) for char in text
    )
    return text if text.startswith("<") or strange <= 1 else None


def content_problem(name: str, path: Path) -> str:
    """What is wrong with the file at `path`, fetched as `name`; "" where it is of a kind that we read."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    problem = start_problem(name, head)
    if problem:
        return problem
    if name.endswith(".json"):
        return _json_problem(path, config=name.endswith("config.json"))
    return KINDS.get(Path(name).suffix, _any_kind)(path)


def _any_kind(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(2)
    if head == b"PK":
        return _zip_problem(path, "")
    if head[:1] == b"\x80":
        return _torch_problem(path) if _is_legacy_torch(path) else _pickle_problem(path)
    return _safetensors_problem(path)


def _safetensors_problem(path: Path) -> str:
    try:
        with safe_open(path, framework="numpy"):
            return ""
    except (SafetensorError, OSError) as error:
        return f"is no whole safetensors file ({error})"


def _zip_problem(path: Path, member: str) -> str:
    """member: how the name of one of its members ends."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        return f"is no whole archive ({error})"
    return "" if any(name.endswith(member) for name in names) else f"has no '{member}' in it"


def _is_legacy_torch(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(LEGACY_TORCH)) == LEGACY_TORCH


def _torch_problem(path: Path) -> str:
    if not _is_legacy_torch(path):
        return _zip_problem(path, "data.pkl")
    try:
        read_state_dict(path)
    except UserError as error:
        return f"is no whole file of weights ({error})"
    return ""


def _json_problem(path: Path, *, config: bool) -> str:
    try:
        if path.stat().st_size > MOST_JSON:
            return f"has more than {MOST_JSON:,} bytes, too many for settings"
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        return f"is no JSON ({error})"
    if not isinstance(content, dict) or "error" in content:
        return f"holds no settings, but {str(content)[:80]!r}"
    if config and "_class_name" not in content:
        return f"holds no '_class_name', as the settings of an autoencoder do, but {str(content)[:80]!r}"
    return ""


def _pickle_problem(path: Path) -> str:
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            named = _globals_of(file, size)
            after = size - file.tell()
    except ValueError as error:
        return f"is no whole pickle ({error})"
    if after:
        return f"has {after:,} bytes after the end of its pickle"
    foreign = sorted(named - ALLOWED)
    if foreign:
        return f"names {foreign[0]!r}, which no published checkpoint or reference does; nothing in it was run"
    return "" if named else "is a pickle without a network or an array"


class _Passed(bytes):
    """Stands for a large argument that was passed over; it has the length of what it stands for."""

    length = 0

    def __len__(self) -> int:
        return self.length


class _Reader:
    """A file as pickletools reads it: lengths that it claims allocate nothing."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def tell(self) -> int:
        return self._file.tell()

    def readline(self) -> bytes:
        return self._file.readline(LINE)

    def read(self, count: int) -> bytes:
        if count <= LARGE:
            return self._file.read(count)
        passed = _Passed()
        passed.length = min(count, self._size - self._file.tell())
        self._file.seek(passed.length, 1)
        return passed


def _globals_of(file: BinaryIO, size: int) -> set[str]:
    """Every global that the next pickle of a file names. Raises ValueError where it is broken or cut off."""
    found = set()
    last = ["", ""]  # texts: what STACK_GLOBAL takes
    memo: dict[int, str] = {}
    stored = 0
    try:
        reader: Any = _Reader(file, size)  # genops asks for no more than this has
        for opcode, argument, _ in pickletools.genops(reader):
            name = opcode.name
            if name == "STACK_GLOBAL":
                found.add(".".join(last))
            elif name == "GLOBAL":
                found.add(str(argument).replace(" ", ".", 1))
            elif name == "INST" or name.startswith("EXT"):
                raise ValueError(f"it uses the operation {name}")
            if "UNICODE" in name or "STRING" in name:
                last = [last[1], str(argument)]
            elif name == "MEMOIZE":
                memo[stored] = last[1]
            elif "PUT" in name:
                memo[int(str(argument))] = last[1]
            elif "GET" in name:
                last = [last[1], memo.get(int(str(argument)), "")]
            stored += name == "MEMOIZE" or "PUT" in name
    except (ValueError, TypeError, IndexError, OverflowError, MemoryError) as error:
        raise ValueError(str(error)[:100] or type(error).__name__) from error
    return found


KINDS: dict[str, Callable[[Path], str]] = {
    ".pkl": _pickle_problem,
    ".safetensors": _safetensors_problem,
    ".npz": lambda path: _zip_problem(path, ".npy"),
    ".pth": _torch_problem,
    ".pt": _torch_problem,
}
