"""What the files of a set say beside their pixels: classes, and numbers in the names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Generic, NamedTuple

from erk_bench.base.errors import UserError
from erk_bench.base.untrusted import parse_json
from erk_bench.evaluation.decoding import READ_ERRORS
from erk_bench.evaluation.image_files import Entry, Where, hidden_part, is_image_name, visible

CLASS_ENDING, TABLE = ".cls", "dataset.json"
NUMBER = re.compile(r"(.*?)([0-9]{1,18})", re.DOTALL)
WHOLE = re.compile(rb"\s*(-?[0-9]{1,18})\s*")


class LabelFiles(Generic[Where]):
    """Gathers labels while the files of a container are listed: WebDataset's .cls, EDM2's dataset.json."""

    def __init__(self, place: str) -> None:
        self.place = place
        self._classes: dict[str, bytes] = {}
        self._tables: list[tuple[str, Where]] = []

    def watch(self, entries: Iterable[Entry[Where]]) -> Iterator[Entry[Where]]:
        """The same entries."""
        for entry in entries:
            if entry.plain and entry.name.endswith((CLASS_ENDING, TABLE)) and hidden_part(entry.name) is None:
                path = PurePosixPath(entry.name)
                if path.suffix == CLASS_ENDING:
                    self._classes[_key(entry.name)] = _peeked(entry)
                elif path.name == TABLE:
                    self._tables.append((entry.name, entry.where))
            yield entry

    def of(self, names: Sequence[str], read: Callable[[Where], bytes]) -> list[int] | None:
        """The class of each image; None unless each has one. Raises UserError for a damaged dataset.json."""
        if self._tables:
            found: dict[str, int] = {}
            for name, where in self._tables:
                found |= self._table(name, where, read)
            return _all(found.get(_plain(name)) for name in names)
        if self._classes:
            return _all(_whole(self._classes.get(_key(name), b"")) for name in names)
        return None

    def _table(self, name: str, where: Where, read: Callable[[Where], bytes]) -> dict[str, int]:
        """Class by image: {"labels": [["00000/img00000000.png", 7], ...]}, relative to the table."""
        try:
            content = parse_json(read(where))
        except READ_ERRORS as error:
            raise UserError(
                f"the labels '{visible(name)}' of '{self.place}' are no readable JSON ({error}); copy the "
                "file again, or remove it to go without labels"
            ) from error
        rows = content.get("labels") if isinstance(content, dict) else None
        folder = PurePosixPath(_plain(name)).parent
        found = {}
        for row in rows if isinstance(rows, list) else []:
            if isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) and type(row[1]) is int:
                found[str(folder / row[0])] = row[1]
        return found


def _all(labels: Iterable[int | None]) -> list[int] | None:
    found = []
    for label in labels:
        if label is None or not 0 <= label < 2**31:
            return None
        found.append(label)
    return found


def _peeked(entry: Entry[Where]) -> bytes:
    try:
        return entry.peek()
    except READ_ERRORS:
        return b""


def _whole(text: bytes) -> int | None:
    match = WHOLE.fullmatch(text)
    return int(match[1]) if match else None


def _plain(name: str) -> str:
    """A path without ./ in front."""
    return str(PurePosixPath(name))


def _key(name: str) -> str:
    """What WebDataset joins the files of a sample by: the path as far as the first dot of the last part."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.split(".")[0] or path.name))


def without_ending(name: str) -> str:
    """The path without ./ in front and without the ending of an image."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if is_image_name(path.name) else str(path)


def numbers_of(names: Sequence[str]) -> list[int] | None:
    """The number at the end of each file's name without folders and ending, as 12 of 00/img00000012.png.

    None unless all names have one, the same text before it, and no number comes twice.
    """
    numbers, before = [], set[str]()
    for name in names:
        match = NUMBER.fullmatch(PurePosixPath(without_ending(name)).name)
        if match is None:
            return None
        before.add(match[1])
        if len(before) > 1:
            return None
        numbers.append(int(match[2]))
    return numbers if len(set(numbers)) == len(numbers) else None


class Classes(NamedTuple):
    """labels: of the images, as indices of names."""

    labels: list[int]
    names: tuple[str, ...]


def folder_classes(names: Sequence[str]) -> Classes | None:
    """The classes that the images' folders are, below the folder that all have in common.

    None for fewer than two, for images beside such folders, and for folders that hold each thousand of
    numbered images, as EDM2 and our exports lay them out. Folders named by whole numbers are in their order.
    """
    folders = [PurePosixPath(name).parent.parts for name in names]
    shortest, longest = min(folders), max(folders)
    depth = 0  # of the folder that all have in common
    while depth < min(len(shortest), len(longest)) and shortest[depth] == longest[depth]:
        depth += 1
    if any(len(parts) <= depth for parts in folders):
        return None
    found = [parts[depth] for parts in folders]
    numbers = numbers_of(names)
    if numbers is not None and all(
        parts[-1] in (f"{number // 1000:05d}", f"{number - number % 1000:06d}")
        for parts, number in zip(folders, numbers, strict=True)
    ):
        return None
    whole = all(re.fullmatch("[0-9]{1,18}", name) for name in set(found))
    ordered = sorted(set(found), key=lambda name: (int(name) if whole else 0, name))
    index = {name: position for position, name in enumerate(ordered)}
    return Classes([index[name] for name in found], tuple(ordered))
