"""A run's images in the forms that other tools read: a folder of PNG files, or guided-diffusion's .npz."""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from erk_bench.errors import DamagedError, UserError, unknown_name
from erk_bench.files import open_atomic
from erk_bench.spec import RunSpec
from erk_bench.storage.blocks import blocks_of
from erk_bench.storage.png import png_path, write_png
from erk_bench.storage.store import RunStore

FORMATS = ("png", "npz")


def images_of(spec: RunSpec) -> Iterator[tuple[int, np.ndarray, int]]:
    """(seed, uint8 HWC image, class or -1) of each seed in order, read from the run's blocks."""
    store = RunStore.open(spec)
    wanted = spec.seed_range
    blocks = blocks_of(wanted, spec.block_size)
    missing = [block for block in blocks if not store.has_images(block)]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(blocks)} blocks of {spec.run_id} have no images (first: {missing[0]}); "
            "run 'erk-bench generate' with the same arguments first"
        )
    for block in blocks:
        try:
            content = store.read_images(block)
        except DamagedError as error:
            more = store.set_aside_damaged(blocks, [])
            raise DamagedError.of([error, *(DamagedError(f"'{path}'") for path in more)]) from error
        pixels = content.images.permute(0, 2, 3, 1).numpy()
        for seed, image, label in zip(block.seeds, pixels, content.classes.tolist(), strict=True):
            if seed in wanted:
                yield seed, image, label


def export_png(spec: RunSpec, folder: Path) -> int:
    """FOLDER/SSS000/SSSSSS.png, see storage/png."""
    count = 0
    for seed, image, _ in images_of(spec):
        write_png(png_path(folder, seed), image)
        count += 1
    return count


def export_npz(spec: RunSpec, path: Path) -> int:
    """guided-diffusion's sample file: arr_0 uint8 [N, H, W, 3], arr_1 int64 [N] for a conditional model.

    Written image by image: 50,000 of 512x512 are 39 GB.
    """
    count = len(spec.seed_range)
    rows = images_of(spec)
    first = next(rows)
    height, width = first[1].shape[:2]
    labels = []
    with open_atomic(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as member:
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, height, width, 3)}
            np.lib.format.write_array_header_1_0(member, header)
            for _, image, label in itertools.chain([first], rows):
                member.write(np.broadcast_to(image, (height, width, 3)).tobytes())
                labels.append(label)
        if min(labels) >= 0:
            with archive.open(zipfile.ZipInfo("arr_1.npy"), "w") as member:
                np.lib.format.write_array(member, np.array(labels, dtype=np.int64))
    return count


def export(spec: RunSpec, form: str, to: str) -> tuple[int, Path]:
    """Write the images; returns their number and where they are."""
    if form not in FORMATS:
        raise unknown_name("export format", form, FORMATS)
    if form == "npz":
        path = Path(to or f"{spec.run_id}.npz")
        return export_npz(spec, path), path
    folder = Path(to or f"{spec.run_id}-png")
    return export_png(spec, folder), folder
