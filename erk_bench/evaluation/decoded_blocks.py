"""Blocks of a set's images, decoded by threads while a detector works on the block before."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.evaluation.image_files import visible
from erk_bench.evaluation.image_set import ChangedError, ImageSet, check_sizes

MOST_BYTES = 1 << 30  # of pixels decoded ahead


class DecodedBlock(NamedTuple):
    """pixels: uint8 [B, 3, H, W] of positions, in their order. left_out: why others are missing."""

    positions: list[int]
    pixels: Tensor
    left_out: dict[int, str]


class _Waiting(NamedTuple):
    pixels: Tensor
    rows: list[Future[None]]


class DecodedBlocks:
    """Decodes blocks of positions; `ahead` begins with one, `read` waits for it. For one reading thread.

    threads: that decode. skip_unreadable: leave images out that cannot be read, instead of an error.
    most_bytes: of pixels that are held for blocks not yet read; a block beyond that waits until it is read.
    Blocks are read in the order of `ahead`: reading one drops those before it, which others may have taken.
    Use it in a `with` statement, whose end stops the threads.
    """

    def __init__(
        self, images: ImageSet, *, threads: int, skip_unreadable: bool = False, most_bytes: int = MOST_BYTES
    ) -> None:
        self._images = images
        self._size = check_sizes(images)
        self._skip_unreadable = skip_unreadable
        self._most_bytes = most_bytes
        self._waiting: dict[tuple[int, ...], _Waiting] = {}
        self._pool = ThreadPoolExecutor(threads, "decode")

    def __enter__(self) -> DecodedBlocks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.clear()
        self._pool.shutdown(cancel_futures=True)

    def ahead(self, positions: Sequence[int]) -> bool:
        """Begin to decode a block, if there is room for it; returns whether it is being decoded."""
        block = tuple(positions)
        held = sum(waiting.pixels.numel() for waiting in self._waiting.values())
        if block not in self._waiting:
            if held + len(block) * 3 * self._size[0] * self._size[1] > self._most_bytes:
                return False
            self._begin(block)
        return True

    def read(self, positions: Sequence[int]) -> DecodedBlock:
        """The images of a block.

        Raises UserError, naming the image, for one that cannot be read unless such are skipped, and for one
        that has changed since the set was opened.
        """
        block = tuple(positions)
        if block not in self._waiting:
            self._begin(block)
        for passed in list(itertools.takewhile(lambda other: other != block, self._waiting)):
            for row in self._waiting.pop(passed).rows:
                row.cancel()
        pixels, rows = self._waiting.pop(block)
        left_out: dict[int, str] = {}
        try:
            for position, row in zip(block, rows, strict=True):
                try:
                    row.result()
                except UserError as error:
                    if not self._skip_unreadable or isinstance(error, ChangedError):
                        raise
                    left_out[position] = str(error)
        except UserError:
            for row in rows:
                row.cancel()
            raise
        if not left_out:
            return DecodedBlock(list(block), pixels, {})
        kept = [row for row, position in enumerate(block) if position not in left_out]
        return DecodedBlock([block[row] for row in kept], pixels[kept], left_out)

    def _begin(self, block: tuple[int, ...]) -> None:
        pixels = torch.empty(len(block), 3, *self._size, dtype=torch.uint8)
        rows = [self._pool.submit(self._decode, position, pixels[row]) for row, position in enumerate(block)]
        self._waiting[block] = _Waiting(pixels, rows)

    def _decode(self, position: int, row: Tensor) -> None:
        found = self._images.view(position)
        if found.shape != row.shape:  # the file's header said something else
            raise UserError(
                f"image '{visible(self._images.names[position])}' of '{self._images.place}' decodes to "
                f"{found.shape[1]}x{found.shape[2]} pixels instead of {row.shape[1]}x{row.shape[2]}; take it "
                "out of the set"
            )
        row.copy_(found)
