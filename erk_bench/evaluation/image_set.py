"""A set of images that something else made: its order, names, classes, sizes and content, for scoring it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.evaluation.image_files import SHOWN, visible
from erk_bench.evaluation.image_labels import folder_classes, numbers_of, without_ending
from erk_bench.evaluation.image_source import ImageSource
from erk_bench.evaluation.real_images import center_crop, open_images
from erk_bench.evaluation.survey import Survey, survey

MOST_THREADS = 32  # of one process that reads images


class ChangedError(UserError):
    """An image is no longer what it was when its set was opened."""


class Duplicates(NamedTuple):
    """number: of images whose bytes are those of an earlier one. pairs: the first few, (image, earlier)."""

    number: int
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ImageSet:
    """Images in a fixed order, of which each was read once; see `open_set`. Reading is safe from threads.

    labels: the class of each image, int64 [N], None if unknown. class_names: of the labels, empty if unknown.
    resolution: side of the square that each image is cropped and resized to; None leaves them as they are.
    """

    source: ImageSource
    survey: Survey
    labels: Tensor | None
    class_names: tuple[str, ...]
    resolution: int | None

    def __len__(self) -> int:
        return len(self.source)

    @property
    def place(self) -> str:
        """Where it lies, for messages."""
        return self.source.place

    @property
    def names(self) -> Sequence[str]:
        """Of the images, in order: paths below the place, or numbers of rows ("000000")."""
        return self.source.names

    @property
    def sizes(self) -> Tensor:
        """(height, width) of each image before any cropping, int64 [N, 2]; 0, 0 for an unreadable one."""
        return self.survey.sizes

    @property
    def digests(self) -> Tensor:
        """sha256 of each image's file, or of its pixels in an array, uint8 [N, 32]."""
        return self.survey.digests

    @property
    def unreadable(self) -> dict[int, str]:
        """Why an image cannot be read, by position."""
        return self.survey.problems

    @cached_property
    def content_sha256(self) -> str:
        """Hex sha256 of the names (see names_sha256) and digests in order, wherever the set lies."""
        content = bytes.fromhex(self.names_sha256) + self.digests.numpy().tobytes()
        return hashlib.sha256(content).hexdigest()

    @cached_property
    def numbers(self) -> str:
        """ "FIRST-LAST" if the names end in consecutive whole numbers, as our exports' (seeds), else ""."""
        found = numbers_of(self.names)
        if not found or found != list(range(found[0], found[0] + len(found))):
            return ""
        return f"{found[0]}-{found[-1]}"

    @cached_property
    def names_sha256(self) -> str:
        """See the function `names_sha256`."""
        return names_sha256(self.names)

    def duplicates(self) -> Duplicates:
        """Images that are copies of earlier ones, byte by byte."""
        first: dict[bytes, int] = {}
        copies = []
        rows = self.digests.numpy()
        for index in range(len(self)):
            if index not in self.unreadable:
                earlier = first.setdefault(rows[index].tobytes(), index)
                if earlier != index:
                    copies.append((index, earlier))
        pairs = tuple((self.names[index], self.names[earlier]) for index, earlier in copies[:SHOWN])
        return Duplicates(len(copies), pairs)

    def pixels(self, index: int) -> Tensor:
        """Image `index` as uint8 [3, H, W]; see `decode` and `center_crop`.

        Raises UserError, naming the image, for one that cannot be read, ChangedError for one that is not what
        it was when the set was opened.
        """
        return self.view(index).contiguous()

    def view(self, index: int) -> Tensor:
        """The same as `pixels`, perhaps in another order in memory: a copy less where it is copied anyway."""
        if index in self.unreadable:
            raise UserError(self.unreadable[index])
        raw = self._unchanged(index)
        if self.resolution is None or self.sizes[index].tolist() == [self.resolution] * 2:
            return self.source.tensor(index, raw)
        return center_crop(self.source.image(index, raw), self.resolution)

    def _unchanged(self, index: int) -> bytes:
        """The bytes of an image. Raises ChangedError unless they are those of the first pass."""
        try:
            raw = self.source.raw(index)
            problem = (
                "" if hashlib.sha256(raw).digest() == self.digests[index].numpy().tobytes() else "has changed"
            )
        except UserError as error:
            raw, problem = b"", f"was readable before ({error})"
        if problem:
            if self.survey.kept is not None:
                self.survey.kept.unlink(missing_ok=True)  # it would say the same again
            raise ChangedError(
                f"image '{visible(self.names[index])}' of '{self.place}' {problem}: the set changes "
                "while it is read; run the same command again when nothing writes to it"
            )
        return raw


def names_sha256(names: Sequence[str]) -> str:
    """Hex sha256 of names in order, without endings, and without folders if none then comes twice."""
    paths = [without_ending(name) for name in names]
    last = [PurePosixPath(path).name for path in paths]
    return hashlib.sha256(json.dumps(last if len(set(last)) == len(last) else paths).encode()).hexdigest()


def open_set(
    places: str | Path | Sequence[str | Path],
    *,
    resolution: int | None = None,
    cache: Path | None = None,
    threads: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> ImageSet:
    """A set of images in any form that `open_images` takes, in the order that pairs it with others.

    The order is that of the numbers at the ends of the names, if all have one and none comes twice; else that
    of a list, else by path. Classes are those of dataset.json, .cls files or arr_1, else the folders.
    places: one folder, file or pattern, which may stand for several files. resolution: crop and resize.
    cache: folder that keeps what the first pass over the files found, see `survey`. threads: that read files.
    advance: called with the number of images just read. An image that cannot be read is no error here, see
    `check_readable`.
    Raises UserError for places that are missing, empty, damaged or of several kinds.
    """
    source = _opened([places] if isinstance(places, (str, Path)) else list(places))
    numbers = numbers_of(source.names)
    if numbers is not None:
        source = source.in_order(sorted(range(len(source)), key=numbers.__getitem__))
    elif not source.listed:
        source = source.in_order(sorted(range(len(source)), key=source.names.__getitem__))
    labels, class_names = source.labels, tuple[str, ...]()
    if labels is None and source.size is None:
        classes = folder_classes(source.inside or source.names)
        if classes is not None:
            labels, class_names = classes
    found = survey(source, cache=cache, threads=threads or reading_threads(1), advance=advance)
    of_images = None if labels is None else torch.tensor(labels, dtype=torch.int64)
    return ImageSet(source, found, of_images, class_names, resolution)


def _opened(places: Sequence[str | Path]) -> ImageSource:
    if len(places) == 1:
        return open_images(places[0])
    raise UserError(
        f"{len(places)} places make no one set; give each by itself, or one pattern for files of one set "
        "('NAME-*.tar', 'NAME-{000..012}.tar')"
    )


def reading_threads(workers: int) -> int:
    """Threads that read images in each of `workers` processes of this machine."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        cores = os.cpu_count() or 1
    return max(1, min(MOST_THREADS, cores // workers))


def check_sizes(images: ImageSet) -> tuple[int, int]:
    """(height, width) of the pixels of every image. Raises UserError where images have several sizes."""
    if images.resolution is not None:
        return images.resolution, images.resolution
    first: dict[tuple[int, int], list[int]] = {}
    for index, (height, width) in enumerate(images.sizes.tolist()):
        if index not in images.unreadable:
            first.setdefault((height, width), []).append(index)
    if not first:
        raise _none_readable(images)
    if len(first) > 1:
        ordered = sorted(first.items(), key=lambda item: -len(item[1]))
        told = [
            f"{len(found):,} of {height}x{width} (height x width; {_some([images.names[i] for i in found])})"
            for (height, width), found in ordered[:SHOWN]
        ]
        more = f", and {len(ordered) - SHOWN} other sizes" if ordered[SHOWN:] else ""
        raise UserError(
            f"the images of '{images.place}' have several sizes: {', '.join(told)}{more}; give "
            "resolution=N to crop and resize each to N x N as ADM does, or take the others out"
        )
    return next(iter(first))


def check_readable(images: ImageSet, *, skip_unreadable: bool = False) -> list[int]:
    """Positions of the images that cannot be read. Raises UserError if there are any and none may be skipped.

    Of PNG and JPEG files the structure was looked at, others were decoded. A damage inside a file shows only
    when it is decoded.
    """
    bad = sorted(images.unreadable)
    if len(bad) == len(images):
        raise _none_readable(images)
    if bad and not skip_unreadable:
        others = [images.names[index] for index in bad[1:]]
        more = f"; {len(others):,} more cannot be read ({_some(others)})" if others else ""
        raise UserError(
            f"{images.unreadable[bad[0]]}{more}; or skip_unreadable=true leaves such images out, and says so"
        )
    return bad


def _none_readable(images: ImageSet) -> UserError:
    return UserError(
        f"none of the {len(images):,} images of '{images.place}' can be read; the first: "
        f"{next(iter(images.unreadable.values()))}"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(visible, names[:SHOWN])) + (", ..." if names[SHOWN:] else "")
