"""The files of one run: a manifest, one file a block of images, one a block of features.

A file under its final name is complete. Every block file carries its seeds and a checksum, and holds the
same bytes for every world size, range and restart. Damaged files are renamed, and computed anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from erk_bench.base.errors import DamagedError, UserError
from erk_bench.base.fields import identity_fields
from erk_bench.base.files import sweep, write_atomic, write_new, writing
from erk_bench.runs.block_files import DamagedFile, block_bytes, block_entry, block_facts, parse_block
from erk_bench.runs.blocks import Block, Worker
from erk_bench.runs.png import read_png_block, write_png_block
from erk_bench.runs.timings import Timing, append_timing, read_timings
from erk_bench.spec import Spec, digest_of

FORMAT = "erk-bench store 1"
DAMAGED = ".damaged"  # ending of files that were set aside
READERS = 4  # threads that check files


class ImageBlock(NamedTuple):
    """uint8 images NCHW of a block's seeds in order, their classes int64 [B] (-1: none), and the counted
    network evaluations of the block (main, guiding)."""

    images: Tensor
    classes: Tensor
    nfe: float
    nfe_guide: float


class RunStore:
    """The folder of one run, OUT/RUN_ID."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], seeds: str) -> None:
        self.folder = folder
        self.seeds = seeds
        self.is_damaged = self._is_written = False  # its manifest is
        self._manifest = manifest

    @staticmethod
    def folder_of(spec: Spec) -> Path:
        return Path(spec.out).expanduser() / spec.run_id

    @classmethod
    def open(cls, spec: Spec) -> RunStore:
        """The store of `spec`; nothing is written before `create`.

        A damaged manifest is no obstacle. Raises UserError when the folder was made with another spec or
        block size.
        """
        folder = cls.folder_of(spec)
        manifest = folder / "run.json"
        wanted = {
            "format": FORMAT,
            "digest": spec.digest,
            "block_size": spec.block_size,
            "identity": identity_fields(spec),
        }
        store = cls(folder, wanted, spec.seeds)
        try:
            found = _intact(manifest.read_text(encoding="utf-8", errors="replace"), wanted)
        except (FileNotFoundError, NotADirectoryError):
            return store
        except OSError:
            found = None
        different = [key for key in ("format", "digest", "block_size") if found and found[key] != wanted[key]]
        if found is None:
            store.is_damaged = True
            size = store._size_of_files()
            if size not in (None, spec.block_size):
                found, different = {"block_size": size}, ["block_size"]
        if found and different:
            key = different[0]
            raise UserError(
                f"'{folder}' was made with {key} {found[key]}, not {wanted[key]}; use {key}={found[key]} "
                "if that is what you meant, or another folder with out=..."
            )
        store._is_written = not store.is_damaged
        return store

    @classmethod
    def kept_block_size(cls, spec: Spec) -> int | None:
        """The block size of what is kept of the spec, whichever it names itself; None for nothing."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            return int(
                json.loads((cls.folder_of(spec) / "run.json").read_text(encoding="utf-8"))["block_size"]
            )
        return None

    def create(self) -> None:
        """Write the manifest, unless it is there; a damaged one is written again."""
        if self._is_written:
            return
        manifest = self.folder / "run.json"
        if self.is_damaged and manifest.is_file():
            print(f"warning: '{manifest}' was damaged; it is written again", file=sys.stderr)
            set_aside(manifest)
        if not manifest.is_file():
            content = {**self._manifest, "sha256": _sha256(self._manifest)}
            write_atomic(manifest, (json.dumps(content, indent=2) + "\n").encode())
        self.is_damaged, self._is_written = False, True

    def _size_of_files(self) -> int | None:
        """The block size of the files that are there, by the header of the first readable one."""
        for path in sorted(self.folder.glob("images/*.safetensors")) + sorted(
            self.folder.glob("features/*/*.safetensors")
        ):
            with suppress(DamagedFile, OSError, KeyError):
                return int(block_facts(path.read_bytes())["num_seeds"])
        return None

    def has_images(self, block: Block, png: bool | None = None) -> bool:
        """Whether the block's images are kept, as PNG files or not; None: either way."""
        files = {True: self._png_index(block), False: self._images(block)}
        return any(path.is_file() for form, path in files.items() if png in (None, form))

    def write_images(
        self, block: Block, content: ImageBlock, png: bool = False, *, contested: bool = False
    ) -> bool:
        """contested: others may write the same block; see `_write`, also for what is returned."""
        counts = {"nfe": content.nfe, "nfe_guide": content.nfe_guide}
        if png:
            if contested and self.has_images(block, png=True):
                return False
            facts = {**counts, "classes": content.classes.tolist()}
            write_png_block(self.folder / "png", self._png_index(block), block, content.images, facts)
            return True
        tensors = {"images": content.images, "classes": content.classes}
        return self._write(self._images(block), block, tensors, counts, contested)

    def read_images(self, block: Block) -> ImageBlock:
        try:
            tensors, meta = self._read(self._images(block), block)
        except OSError as error:
            if not self.has_images(block, png=True):
                raise _missing(self._images(block), block) from error
            images, facts = read_png_block(self.folder / "png", self._png_index(block), block)
            return ImageBlock(images, torch.tensor(facts["classes"]), facts["nfe"], facts["nfe_guide"])
        return ImageBlock(tensors["images"], tensors["classes"], meta["nfe"], meta["nfe_guide"])

    def has_features(self, detector: str, block: Block) -> bool:
        return self._features(detector, block).is_file()

    def write_features(
        self,
        detector: str,
        block: Block,
        features: Mapping[str, Tensor],
        meta: Mapping[str, Any],
        *,
        contested: bool = False,
    ) -> bool:
        """detector: its key. features: float32 [B, ...] by name. meta: the counted evaluations, and more.

        contested: others may write the same block; see `_write`, also for what is returned.
        """
        return self._write(self._features(detector, block), block, features, meta, contested)

    def read_features(self, detector: str, block: Block) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Features by name and the block's metadata, with the counted evaluations."""
        path = self._features(detector, block)
        try:
            return self._read(path, block)
        except OSError as error:
            raise _missing(path, block) from error

    def note_timing(self, worker: Worker, block: Block, timing: Timing) -> None:
        """Append how a block was sampled; kept apart, since block files must repeat exactly."""
        path = self.folder / "seconds" / f"{worker.rank}-of-{worker.world_size}.jsonl"
        append_timing(path, block.index, timing)

    def timings(self) -> dict[int, Timing]:
        """How the blocks that were timed were sampled, by block number; damaged lines are skipped."""
        return read_timings(self.folder / "seconds")

    def set_aside_damaged(self, blocks: Sequence[Block], detectors: Sequence[str]) -> list[Path]:
        """Read the files of these blocks, images and features, and rename those that are damaged.

        PNG files are not looked at: decoding them takes long, and whoever reads them finds out.
        """
        files = [(self._images(block), block) for block in blocks]
        files += [(self._features(detector, block), block) for detector in detectors for block in blocks]
        there = {folder: names_in(folder) for folder in {path.parent for path, _ in files}}
        files = [(path, block) for path, block in files if path.name in there[path.parent]]

        def damaged(path: Path, block: Block) -> bool:
            try:
                self._read(path, block)
            except DamagedError:
                return True
            except OSError:  # another process has set it aside
                pass
            return False

        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(lambda each: damaged(*each), files)
            return [path for (path, _), bad in zip(files, found, strict=True) if bad]

    @staticmethod
    def manifest(folder: Path, subfolder: str, blocks: Sequence[Block]) -> list[dict[str, Any]]:
        """Path, bytes, seeds and sha256 of these blocks' files, by their headers; empty unless all are there.

        folder: of a run. subfolder: "images", or "features/" with a detector's key.
        """
        paths = [folder / subfolder / f"{block.index:08d}.safetensors" for block in blocks]
        try:
            return [{"path": path.relative_to(folder).as_posix(), **block_entry(path)} for path in paths]
        except (OSError, DamagedFile):
            return []

    def sweep(self) -> None:
        """Remove what killed writers have left in the run's folders."""
        for folder, _, _ in os.walk(self.folder):
            sweep(Path(folder))

    def lost_images(self, block: Block) -> bool:
        """Whether the block's images were damaged and have not been made anew."""
        return self._images(block).with_suffix(DAMAGED).is_file() and not self.has_images(block)

    def _images(self, block: Block) -> Path:
        return self.folder / "images" / f"{block.index:08d}.safetensors"

    def _png_index(self, block: Block) -> Path:
        return self.folder / "png-blocks" / f"{block.index:08d}.json"

    def _features(self, detector: str, block: Block) -> Path:
        return self.folder / "features" / detector / f"{block.index:08d}.safetensors"

    def _facts(self, block: Block) -> dict[str, Any]:
        return {"run": self.folder.name, "first_seed": block.seeds[0], "num_seeds": len(block.seeds)}

    def _write(
        self,
        path: Path,
        block: Block,
        tensors: Mapping[str, Tensor],
        extra: Mapping[str, Any],
        contested: bool,
    ) -> bool:
        """Write a file; False where another process's stands there, made on another device.

        contested: such a file stays. Else nobody else writes the block, and it is replaced.
        """
        data = block_bytes(tensors, {**self._facts(block), **extra})
        if contested:
            return write_new(path, data)
        write_atomic(path, data)
        return True

    def _read(self, path: Path, block: Block) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and metadata of a block file; a damaged one is set aside. Raises FileNotFoundError."""
        raw = path.read_bytes()
        try:
            return parse_block(raw, self._facts(block))
        except DamagedFile as error:
            aside = set_aside(path)
            raise DamagedError(
                f"block file '{path}' ({block}) is damaged: {error}. It was renamed to '{aside.name}'; "
                "run the same command again to compute it anew"
            ) from error


def _missing(path: Path, block: Block) -> UserError:
    return UserError(
        f"block file '{path}' ({block}) is missing; run 'erk-bench generate' again with the same arguments: "
        "finished blocks are kept"
    )


def _intact(manifest: str, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """The content of a manifest's text; None for a damaged one."""
    try:
        found: dict[str, Any] = json.loads(manifest)
        if "sha256" in found:
            intact = found.pop("sha256") == _sha256(found)
        else:  # of an earlier version
            intact = digest_of(found["identity"]) == found["digest"]
        return found if intact and set(found) == set(wanted) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _sha256(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def names_in(folder: Path) -> frozenset[str]:
    """The names of the files in a folder; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def folders_in(folder: Path) -> frozenset[str]:
    """The names of the folders in a folder; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that it is made anew; its new path."""
    aside = path.with_suffix(DAMAGED)
    with writing(aside), suppress(FileNotFoundError):  # another reader may have been faster
        path.replace(aside)
    return aside
