"""A run's images in the forms that other tools read: a folder of PNG files, or guided-diffusion's .npz."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from erk_bench.errors import UserError, unknown_name
from erk_bench.files import write_atomic
from erk_bench.spec import RunSpec
from erk_bench.storage.blocks import blocks_of
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
        content = store.read_images(block)
        pixels = content.images.permute(0, 2, 3, 1).numpy()
        for seed, image, label in zip(block.seeds, pixels, content.classes.tolist(), strict=True):
            if seed in wanted:
                yield seed, image, label


def export_png(spec: RunSpec, folder: Path) -> int:
    """FOLDER/SSS000/SSSSSS.png, a subfolder for each thousand seeds, as EDM2's --subdirs lays them out."""
    count = 0
    for seed, image, _ in images_of(spec):
        buffer = io.BytesIO()
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
        write_atomic(folder / f"{seed - seed % 1000:06d}" / f"{seed:06d}.png", buffer.getvalue())
        count += 1
    return count


def export_npz(spec: RunSpec, path: Path) -> int:
    """guided-diffusion's sample file: arr_0 uint8 [N, H, W, 3], arr_1 int64 [N] for a conditional model."""
    rows = list(images_of(spec))
    images = np.stack([image for _, image, _ in rows])
    if images.shape[-1] == 1:
        images = images.repeat(3, axis=-1)
    labels = np.array([label for _, _, label in rows], dtype=np.int64)
    buffer = io.BytesIO()
    if (labels >= 0).all():
        np.savez(buffer, images, labels)
    else:
        np.savez(buffer, images)
    write_atomic(path, buffer.getvalue())
    return len(rows)


def export(spec: RunSpec, form: str, to: str) -> tuple[int, Path]:
    """Write the images; returns their number and where they are."""
    if form not in FORMATS:
        raise unknown_name("export format", form, FORMATS)
    if form == "npz":
        path = Path(to or f"{spec.run_id}.npz")
        return export_npz(spec, path), path
    folder = Path(to or f"{spec.run_id}-png")
    return export_png(spec, folder), folder
