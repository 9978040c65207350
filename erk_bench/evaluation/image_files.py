"""Which of the files of a folder or archive are images of the set; the others are counted and named."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Generic, NamedTuple, TypeVar

from PIL import Image

from erk_bench.evaluation.decoding import READ_ERRORS

# Formats that Pillow only identifies, or hands to another program.
NO_PIXELS = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
# Formats whose first bytes are telling; files under other names are asked for them.
TELLING = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "PSD", "QOI", "TIFF", "WEBP")
# Endings of labels, texts and arrays, which shards hold beside each image: never looked into.
DATA = (
    ".cls", ".csv", ".html", ".id", ".index", ".json", ".jsonl", ".md", ".npy", ".npz", ".pkl", ".pt", ".pyd",
    ".safetensors", ".tsv", ".txt", ".xml", ".yaml", ".yml",
)  # fmt: skip
HEAD = 32  # bytes that Pillow tells formats by
# Of operating systems, file managers and network disks; names with a dot in front are hidden anyway.
SYSTEM = (
    "__macosx", "@eadir", "@tmp", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "lost+found",
    "system volume information", "thumbs.db", "desktop.ini",
)  # fmt: skip
SHOWN, NAMED = 3, 20  # names of each kind that a message shows, and that are kept

HIDDEN, NO_FILE, NO_IMAGE = "hidden", "no regular file", "no image that Pillow opens"

Where = TypeVar("Where")


class Entry(NamedTuple, Generic[Where]):
    """A file of a folder or archive. name: its path in there. stamp: numbers that change with its content.

    plain: whether it is a regular file. where: what the container finds it by. peek: its first bytes.
    """

    name: str
    stamp: tuple[int, ...]
    plain: bool
    where: Where
    peek: Callable[[], bytes]


class LeftOut(NamedTuple):
    """How many files, and the names of the first: shards may hold millions of labels."""

    number: int = 0
    names: tuple[str, ...] = ()

    def and_more(self, number: int, names: tuple[str, ...]) -> LeftOut:
        """Both together."""
        return LeftOut(self.number + number, (self.names + names)[:NAMED])


class Chosen(NamedTuple, Generic[Where]):
    """The entries that are images, and the others by reason."""

    images: list[Entry[Where]]
    left_out: dict[str, LeftOut]


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Endings of the files that Pillow opens, lower case, with their dot."""
    known = Image.registered_extensions()  # also makes Pillow look for its formats
    return frozenset(suffix for suffix, form in known.items() if form in Image.OPEN and form not in NO_PIXELS)


def is_image_name(name: str) -> bool:
    """Whether a file of this name should be an image."""
    return PurePath(name).suffix.lower() in image_suffixes()


def hidden_part(name: str) -> str | None:
    """The path as far as its first hidden or system folder or file, None if it has none."""
    parts = re.split(r"([/\\])", name)
    for index, part in enumerate(parts):
        if (part.startswith(".") and part not in (".", "..")) or part.lower() in SYSTEM:
            return "".join(parts[: index + 1]) + ("/" if index + 1 < len(parts) else "")
    return None


def choose(entries: Iterable[Entry[Where]], read: Callable[[Where], bytes]) -> Chosen[Where]:
    """The entries that are images, by their ending or else by their content.

    A file whose ending is an image's is taken without a look: if it is none, reading it says so.
    """
    image_suffixes()  # Pillow knows its formats from here on
    images, left_out = [], dict[str, LeftOut]()
    seen = set()  # hidden folders, of which an archive lists every file

    def leave_out(reason: str, name: str) -> None:
        left_out[reason] = left_out.get(reason, LeftOut()).and_more(1, (name,))

    for entry in entries:
        hidden = hidden_part(entry.name)
        if hidden is not None:
            if hidden not in seen:
                seen.add(hidden)
                leave_out(HIDDEN, hidden)
        elif not entry.plain:
            leave_out(NO_FILE, entry.name)
        elif is_image_name(entry.name) or _has_image(entry, read):
            images.append(entry)
        else:
            leave_out(NO_IMAGE, entry.name)
    return Chosen(images, left_out)


def _has_image(entry: Entry[Where], read: Callable[[Where], bytes]) -> bool:
    if PurePath(entry.name).suffix.lower() in DATA:
        return False
    try:
        head = entry.peek()
        tests = [Image.OPEN[form][1] for form in TELLING if form in Image.OPEN]
        if not any(test is not None and test(head) for test in tests):
            return False
        with Image.open(io.BytesIO(read(entry.where)), formats=TELLING):
            return True
    except READ_ERRORS:
        return False


def summary(left_out: Mapping[str, LeftOut]) -> str:
    """The number of files of each reason with the first few names; empty if there are none."""
    return ", ".join(
        f"{number} {reason} ({', '.join(map(visible, names[:SHOWN]))}{', ...' if number > SHOWN else ''})"
        for reason, (number, names) in left_out.items()
    )


def visible(name: str) -> str:
    """A file's name with control characters and broken bytes as escapes, safe to print."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name)
