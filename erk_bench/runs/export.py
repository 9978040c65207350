"""A run's images in the forms that other tools read: a folder of PNG files, or guided-diffusion's .npz.

Those tools take whatever images a folder holds, so an export never lies beside others: a hidden manifest,
written before the first image, says which files are an export's own. The next export into the same folder
clears them, and refuses a folder with images that are nobody's. An .npz says so in its ZIP comment.
"""

from __future__ import annotations

import itertools
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from erk_bench.base.errors import DamagedError, UserError, unknown_name
from erk_bench.base.files import open_atomic, write_atomic, writing
from erk_bench.evaluation.image_files import SHOWN, is_image_name, visible
from erk_bench.runs.blocks import blocks_of
from erk_bench.runs.finish_block import npz_path
from erk_bench.runs.png import png_path, write_png
from erk_bench.runs.store import RunStore
from erk_bench.spec import RunSpec

FORMATS = ("png", "npz")
MANIFEST = ".erk-bench-export.json"
COMMENT = b"erk-bench export"  # begins the ZIP comment of an exported .npz


def images_of(spec: RunSpec) -> Iterator[tuple[int, np.ndarray, int]]:
    """(seed, uint8 HWC image, class or -1) of each seed in order, read from the run's blocks.

    Raises UserError, before the first image, while blocks are missing.
    """
    store = RunStore.open(spec)
    blocks = blocks_of(spec.seed_range, spec.block_size)
    missing = [block for block in blocks if not store.has_images(block)]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(blocks)} blocks of {spec.run_id} have no images (first: {missing[0]}); "
            "run 'erk-bench generate' with the same arguments first"
        )

    def images() -> Iterator[tuple[int, np.ndarray, int]]:
        wanted = spec.seed_range
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

    return images()


def export_png(spec: RunSpec, folder: Path) -> int:
    """FOLDER/SSS000/SSSSSS.png, see storage/png. An earlier export's files are removed before.

    Raises UserError, and leaves the folder as it is, where it has other images.
    """
    images = images_of(spec)
    _clear(folder)
    content = {"run_id": spec.run_id, "seeds": spec.seeds, "first": spec.seed_range[0]}
    write_atomic(
        folder / MANIFEST,
        (json.dumps({**content, "count": len(spec.seed_range)}, sort_keys=True) + "\n").encode(),
    )
    count = 0
    for seed, image, _ in images:
        write_png(png_path(folder, seed), image)
        count += 1
    return count


def _clear(folder: Path) -> None:
    """Remove an earlier export's files from the folder. Raises UserError where it has other images."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"'{folder}' is a file; give a folder for the PNG files, or format=npz")
    own = _own_files(folder)
    others = []
    for parent, _, files in os.walk(folder):
        for name in files:
            path = Path(parent, name)
            if is_image_name(name) and path not in own:
                others.append(path)
    if others:
        names = ", ".join(visible(str(path.relative_to(folder))) for path in sorted(others)[:SHOWN])
        raise UserError(
            f"'{folder}' has {len(others)} images that are not of an earlier export ({names}"
            f"{', ...' if others[SHOWN:] else ''}), and they would be mixed with the run's; give another "
            "folder with to=..., or remove them"
        )
    with writing(folder):
        for path in own:
            path.unlink(missing_ok=True)
        for parent_folder in {path.parent for path in own}:
            for left in parent_folder.glob(".*.png.*.tmp"):  # of an export that was killed
                left.unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                parent_folder.rmdir()


def _own_files(folder: Path) -> set[Path]:
    """The files that the folder's manifest names, there or not; none without a manifest."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return set()
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        first, count = content["first"], content["count"]
        if not (isinstance(first, int) and isinstance(count, int) and first >= 0):
            raise ValueError("no whole numbers")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"'{manifest}' is damaged ({error}), so nobody knows which images in '{folder}' are an export's; "
            "give another folder with to=..., or remove this one"
        ) from error
    return {png_path(folder, seed) for seed in range(first, first + count)}


def export_npz(spec: RunSpec, path: Path) -> int:
    """guided-diffusion's sample file: arr_0 uint8 [N, H, W, 3], arr_1 int64 [N] for a conditional model.

    Written image by image: 50,000 of 512x512 are 39 GB. Raises UserError where `path` is another file.
    """
    count = len(spec.seed_range)
    rows = images_of(spec)
    _check_replaceable(path)
    first = next(rows)
    height, width = first[1].shape[:2]
    labels = []
    with open_atomic(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = COMMENT + f" {spec.run_id} seeds {spec.seeds}".encode()
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


def _check_replaceable(path: Path) -> None:
    """Refuse to write over anything but an earlier export."""
    if not path.exists():
        return
    if path.is_file():
        with suppress(OSError, ValueError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            if archive.comment.startswith(COMMENT):
                return
    what = "is a folder" if path.is_dir() else "exists and is no earlier export"
    raise UserError(f"'{path}' {what}; give another name with to=..., or remove it")


def export(spec: RunSpec, form: str, to: str) -> tuple[int, Path]:
    """Write the images; returns their number and where they are."""
    if form not in FORMATS:
        raise unknown_name("export format", form, FORMATS)
    if form == "npz":
        path = Path(to or f"{spec.run_id}.npz").expanduser()
        return export_npz(spec, path), path
    folder = Path(to or f"{spec.run_id}-png").expanduser()
    return export_png(spec, folder), folder


def finish_samples(spec: RunSpec) -> Path | None:
    """The folder or file of images that `samples` asks for; writes the .npz from the blocks."""
    folder = RunStore.folder_of(spec)
    if spec.samples == "npz":
        path = npz_path(spec)
        if not path.is_file():
            export_npz(spec, path)
        return path
    return {"png": folder / "png", "blocks": folder / "images"}.get(spec.samples)
