"""Where a set of images may lie: patterns and braces become paths, and what lies at a path has one kind."""

from __future__ import annotations

import glob
import itertools
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from erk_bench.base.errors import UserError
from erk_bench.base.npz_files import MAGIC
from erk_bench.evaluation.containers import stamp_of
from erk_bench.evaluation.image_files import SHOWN, Entry, visible

FOLDER, ZIP, TAR, ARRAY, LIST = "folder", "ZIP", "tar file", "array", "list of files"
ENDINGS = {
    ".zip": ZIP, ".tar": TAR, ".tgz": TAR, ".npz": ARRAY, ".npy": ARRAY, ".txt": LIST, ".lst": LIST,
    ".list": LIST,
}  # fmt: skip
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
MOST_PLACES = 1_000_000  # that braces may stand for
MOST_LIST = 1 << 30  # bytes of a list of files


def expand(text: str) -> list[Path]:
    """The paths that `text` stands for: itself if it exists, else what its pattern or braces give, sorted.

    {000..012} stands for 000, 001, ... 012. Raises UserError where nothing, or not all of it, is there.
    """
    if _exists(text):
        return [Path(text)]
    if not BRACES.search(text):
        if any(mark in text for mark in "*?["):
            return _matches(text)
        braces = "; braces take two numbers, as in {000..012}: write * instead" if "{" in text else ""
        raise UserError(f"image source '{text}' does not exist{braces}; check the path")
    found, missing = list[Path](), list[str]()
    for each in _numbered(text):
        if any(mark in each for mark in "*?[") and not _exists(each):
            found += _matches(each)
        elif _exists(each):
            found.append(Path(each))
        else:
            missing.append(each)
    if missing or not found:
        names = ", ".join(missing[:SHOWN]) + (", ..." if missing[SHOWN:] else "")
        raise UserError(
            f"{len(missing)} of {len(missing) + len(found)} files of '{text}' do not exist"
            f"{f' ({names})' if missing else ''}; check the numbers"
        )
    return found


def _exists(text: str) -> bool:
    """Raises UserError for a path that cannot be asked for."""
    try:
        return Path(text).exists()
    except (OSError, ValueError) as error:  # too long, a folder without permission, a zero byte
        reason = error.strerror if isinstance(error, OSError) else str(error)
        shown = text if len(text) < 200 else f"{text[:200]}..."
        raise UserError(f"image source '{shown}' cannot be opened ({reason}); check the path") from error


def _matches(pattern: str) -> list[Path]:
    found = sorted(Path(match) for match in glob.glob(pattern))  # noqa: PTH207 - it may be absolute
    if not found:
        raise UserError(f"no file matches '{pattern}'; check the pattern")
    return found


def _numbered(text: str) -> Iterator[str]:
    """The text with each {first..last} replaced by its numbers, in order, of the width that is written."""
    parts = BRACES.split(text)  # text, first, last, text, first, last, ..., text
    ranges = []
    count = 1
    for first, last in zip(parts[1::3], parts[2::3], strict=True):
        width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
        numbers = range(int(first), int(last) + 1)
        count *= min(len(numbers), MOST_PLACES + 1) if int(last) < 2**62 else MOST_PLACES + 1
        if count > MOST_PLACES:
            raise UserError(f"the braces of '{text}' stand for more than {MOST_PLACES:,} files; check them")
        ranges.append([f"{number:0{width}d}" for number in numbers])
    for chosen in itertools.product(*ranges):
        yield "".join(itertools.chain.from_iterable(zip(parts[::3], [*chosen, ""], strict=True)))


def kind_of(path: Path) -> str:
    """FOLDER, ZIP, TAR, ARRAY or LIST: by the ending, else by the content. Raises UserError for others."""
    if path.is_dir():
        return FOLDER
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = ENDINGS.get(suffixes[-1]) if suffixes else None
    if not path.is_file():
        if kind == TAR:
            raise UserError(f"'{path}' is no regular file; give .tar files")
        raise UserError(f"image source '{path}' is no regular file; give a folder, a ZIP or tar files")
    if kind is not None:
        return kind
    if ".tar" in suffixes:  # compressed, which its reader explains
        return TAR
    found = _kind_of_content(path)
    if found is None:
        raise UserError(
            f"image source '{path}' is a single file; give a folder, a .zip, a .tar or 'NAME-*.tar', an .npz "
            "or .npy of images, or a .txt that lists files"
        )
    return found


def _kind_of_content(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                return ARRAY
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return ARRAY if "arr_0.npy" in archive.namelist() else ZIP
        return TAR if tarfile.is_tarfile(path) else None
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read '{path}' ({error}); check its permissions, or copy it again") from error


def list_entries(path: Path) -> list[Entry[Path]]:
    """The files that a text names, one path a line, relative to the text's folder; blank lines are skipped.

    Raises UserError, with the line, for one that is no regular file.
    """
    try:
        if path.stat().st_size > MOST_LIST:
            raise UserError(f"'{path}' has more than {MOST_LIST:,} bytes; a list of files is shorter")
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}; check the path") from error
    entries, bad = list[Entry[Path]](), list[str]()
    for number, line in enumerate(lines, 1):
        name = os.fsdecode(line.strip())
        if not name:
            continue
        where = path.parent / Path(name).expanduser()
        try:
            plain = where.is_file()
            stamp = stamp_of(where.stat()) if plain else ()
        except (OSError, ValueError):  # ValueError: a zero byte in the name
            plain, stamp = False, ()
        if plain:
            entries.append(Entry(name, stamp, True, where, bytes))
        else:
            bad.append(f"line {number}: {visible(name)[:200]}")
    if bad:
        more = ", ..." if bad[SHOWN:] else ""
        raise UserError(
            f"'{path}' lists {len(bad)} files that are not there, or are no files "
            f"({', '.join(bad[:SHOWN])}{more}); paths are relative to '{path.parent}': correct the list"
        )
    return entries


def one_kind(text: str, paths: list[Path]) -> str:
    """The kind of all paths. Raises UserError where there are several."""
    kinds: dict[str, list[Path]] = {}
    for path in paths:
        kinds.setdefault(kind_of(path), []).append(path)
    if len(kinds) > 1:
        told = ", ".join(f"{len(found)} {kind} ('{found[0].name}')" for kind, found in kinds.items())
        raise UserError(
            f"'{text}' gives places of several kinds: {told}; a set is of one kind: narrow the pattern"
        )
    return next(iter(kinds))
