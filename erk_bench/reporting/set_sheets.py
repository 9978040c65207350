"""Sheets of images that something else made: a sample of them, and each beside the nearest real ones."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TILE = 96  # pixels of a tile at most, and about that at least
GAP = 4
APART = 24  # between an image and the real ones, and between groups
LINE = 16  # pixels of a line of text
COLUMNS = 12


class Beside(NamedTuple):
    """An image and the real ones nearest to it. images: uint8 [H, W, C]. title: its name and distance."""

    title: str
    image: np.ndarray
    nearest: Sequence[np.ndarray]


def sample(images: Sequence[np.ndarray], title: str) -> bytes:
    """A PNG file: images (uint8 [H, W, C]) in rows of COLUMNS."""
    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    size = (columns * (TILE + GAP) + GAP, rows * (TILE + GAP) + LINE + 2 * GAP)
    sheet = Image.new("RGB", size, "white")
    ImageDraw.Draw(sheet).text((GAP, GAP // 2), title, fill="black", font=_font())
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        _paste(sheet, image, (GAP + column * (TILE + GAP), LINE + 2 * GAP + row * (TILE + GAP)))
    return _png(sheet)


def beside(groups: Sequence[tuple[str, Sequence[Beside]]]) -> bytes:
    """A PNG file: groups side by side, each a heading, and a row for each image and its nearest real ones."""
    columns = 1 + max((len(row.nearest) for _, rows in groups for row in rows), default=0)
    wide = max(columns * (TILE + GAP) + APART, 320)
    line = TILE + LINE + 2 * GAP
    height = 2 * LINE + line * max(len(rows) for _, rows in groups) + GAP
    sheet = Image.new("RGB", (wide * len(groups), height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (heading, rows) in enumerate(groups):
        left, top = number * wide + GAP, 2 * LINE
        draw.text((left, GAP), heading, fill="black", font=_font())
        for row in rows:
            draw.text((left, top), row.title, fill="#555555", font=_font())
            for column, image in enumerate((row.image, *row.nearest)):
                extra = APART // 2 if column else 0  # the image itself stands apart
                _paste(sheet, image, (left + extra + column * (TILE + GAP), top + LINE))
            top += line
    return _png(sheet)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(12)


def _paste(sheet: Image.Image, image: np.ndarray, at: tuple[int, int]) -> None:
    """Small images are enlarged by a whole factor, so that their pixels stay what they are."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    factor = TILE // max(picture.size)
    if factor >= 1:
        size = (picture.width * factor, picture.height * factor)
        picture = picture.resize(size, Image.Resampling.NEAREST)
    else:
        picture.thumbnail((TILE, TILE))
    sheet.paste(picture, (at[0] + (TILE - picture.width) // 2, at[1] + (TILE - picture.height) // 2))


def _png(sheet: Image.Image) -> bytes:
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()
