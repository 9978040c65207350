"""Images a second that a set gives to a detector: decoding alone, by form, side and number of threads.

    .venv/bin/python scripts/bench_images.py --threads 1 2

Prints a table: opening a set for the first time (each file is read and hashed once), opening it again, and
blocks of it decoded by so many threads. Sets are made anew in the folder for temporary files, of smooth
images with a little noise, which take the bytes of photographs. The files are in the system's cache.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from erk_bench.evaluation.decoded_blocks import DecodedBlocks
from erk_bench.evaluation.image_set import ImageSet, open_set

SIDES = {512: 48, 256: 100, 64: 500, 32: 500}  # and how many images
FORMS = ("PNG folder", "PNG ZIP", "JPEG folder", "JPEG ZIP", "npz")
DIFFERENT = 16  # images of a set; the others are copies of them
BLOCK = 25


def pictures(side: int) -> np.ndarray:
    """uint8 [DIFFERENT, side, side, 3]"""
    generator = torch.Generator().manual_seed(side)
    coarse = torch.randn(DIFFERENT, 3, side // 8, side // 8, generator=generator)
    soft = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    noise = torch.randn(DIFFERENT, 3, side, side, generator=generator)
    return (soft * 50 + noise * 4 + 128).clip(0, 255).byte().permute(0, 2, 3, 1).numpy()


def write_set(folder: Path, form: str, side: int, count: int) -> Path:
    """A set of this form; returns its place."""
    images = pictures(side)
    if form == "npz":
        np.savez(folder / "set.npz", images[np.arange(count) % DIFFERENT])
        return folder / "set.npz"
    kind, holder = form.split()
    encoded = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {}))
        encoded.append(buffer.getvalue())
    files = {f"{index:06d}.{kind.lower()}": encoded[index % DIFFERENT] for index in range(count)}
    if holder == "ZIP":
        with zipfile.ZipFile(folder / "set.zip", "w") as archive:
            for name, raw in files.items():
                archive.writestr(name, raw)
        return folder / "set.zip"
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    return folder


def decoding_rate(images: ImageSet, threads: int) -> float:
    """Images a second, all blocks in order, the next one begun before each is read."""
    blocks = [range(first, min(first + BLOCK, len(images))) for first in range(0, len(images), BLOCK)]
    start = time.perf_counter()
    with DecodedBlocks(images, threads=threads) as decoded:
        for block, following in zip(blocks, [*blocks[1:], None], strict=True):
            decoded.ahead(block)
            if following is not None:
                decoded.ahead(following)
            decoded.read(block)
    return len(images) / (time.perf_counter() - start)


def decoding_rates(threads: Sequence[int], *, small: bool = False, turns: int = 3) -> list[dict[str, str]]:
    """A row for each form and side; the best of some turns, since others use the machine too."""
    rows = []
    for side, many in {16: 4}.items() if small else SIDES.items():
        for form in FORMS:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                (folder / "set").mkdir()
                place = write_set(folder / "set", form, side, many)
                seconds = []
                for _ in range(2):
                    start = time.perf_counter()
                    images = open_set(place, cache=folder / "cache", threads=max(threads))
                    seconds.append(time.perf_counter() - start)
                rates = {
                    number: max(decoding_rate(images, number) for _ in range(turns)) for number in threads
                }
            row = {"form": form, "side": str(side), "first opening": f"{many / seconds[0]:,.0f}/s",
                   "opening again": f"{many / seconds[1]:,.0f}/s"}  # fmt: skip
            row |= {
                f"decoding, {number} thread{'s' if number > 1 else ''}": f"{rate:,.0f}/s"
                for number, rate in rates.items()
            }
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    words = parser.parse_args()
    torch.set_num_threads(1)
    rows = decoding_rates(words.threads)
    for cells in (list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
