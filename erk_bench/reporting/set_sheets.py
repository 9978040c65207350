"""Sheets of images that something else made: a sample of them, and each beside the nearest real ones."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TILE = 96  # pixels of a tile at most, and about that at least
GAP = 4
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
    sheet = _blank(columns, rows, LINE + GAP)
    ImageDraw.Draw(sheet).text((GAP, GAP // 2), title, fill="black", font=_font())
    for number, image in enumerate(images):
        _paste(sheet, image, number % columns, number // columns, LINE + GAP, 0)
    return _png(sheet)


def beside(groups: Sequence[tuple[str, Sequence[Beside]]]) -> bytes:
    """A PNG file: for each group a heading, and below it a row for each image with its nearest real ones."""
    columns = 1 + max((len(row.nearest) for _, rows in groups for row in rows), default=0)
    wide = max(columns * (TILE + GAP) + GAP, 420)
    line = TILE + LINE + GAP
    height = sum(2 * LINE + line * len(rows) for _, rows in groups) + GAP
    halves = Image.new("RGB", (wide, height), "white")
    draw = ImageDraw.Draw(halves)
    top = 0
    for heading, rows in groups:
        draw.text((GAP, top + GAP), heading, fill="black", font=_font())
        top += 2 * LINE
        for row in rows:
            draw.text((GAP, top), row.title, fill="#555555", font=_font())
            for column, image in enumerate((row.image, *row.nearest)):
                extra = GAP * 3 if column else 0  # the image itself stands apart
                _paste(halves, image, column, 0, top + LINE, extra)
            top += line
    return _png(halves)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(12)


def _blank(columns: int, rows: int, top: int) -> Image.Image:
    return Image.new("RGB", (columns * (TILE + GAP) + GAP, rows * (TILE + GAP) + GAP + top), "white")


def _paste(sheet: Image.Image, image: np.ndarray, column: int, row: int, top: int, extra: int) -> None:
    """Small images are enlarged by a whole factor, so that their pixels stay what they are."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    factor = TILE // max(picture.size)
    if factor >= 1:
        size = (picture.width * factor, picture.height * factor)
        picture = picture.resize(size, Image.Resampling.NEAREST)
    else:
        picture.thumbnail((TILE, TILE))
    left = GAP + column * (TILE + GAP) + extra + (TILE - picture.width) // 2
    sheet.paste(picture, (left, top + GAP + row * (TILE + GAP) + (TILE - picture.height) // 2))


def _png(sheet: Image.Image) -> bytes:
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()
