"""The files of one run: a manifest, one file a block of images, one a block of features.

A file under its final name is complete. Every block file carries its seeds and a checksum, and holds the
same bytes for every world size, range and restart.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as safetensors_load
from safetensors.torch import save as safetensors_save
from torch import Tensor

from erk_bench.errors import BusyError, UserError
from erk_bench.fields import identity_fields
from erk_bench.files import write_atomic, writing
from erk_bench.spec import RunSpec
from erk_bench.storage.blocks import Block, Worker
from erk_bench.storage.claims import Claims
from erk_bench.storage.png import read_png_block, write_png_block

FORMAT = "erk-bench store 1"
LOCK_GRACE_S = 3.0  # a killed launch needs a moment to end its workers


class ImageBlock(NamedTuple):
    """uint8 images NCHW of a block's seeds in order, their classes int64 [B] (-1: none), and the counted
    network evaluations of the block (main, guiding)."""

    images: Tensor
    classes: Tensor
    nfe: float
    nfe_guide: float


class Timing(NamedTuple):
    """Wall seconds of a block's sampling, and the name of the device that did it.

    cells: runs that shared the work; both seconds and evaluations (of single images, counted) are then this
    run's equal part of it. evaluations: None where the run was alone.
    """

    seconds: float
    device: str
    cells: int = 1
    evaluations: float | None = None


class RunStore:
    """The folder of one run, OUT/RUN_ID."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], seeds: str) -> None:
        self.folder = folder
        self._manifest = manifest
        self._seeds = seeds

    @staticmethod
    def folder_of(spec: RunSpec) -> Path:
        return Path(spec.out).expanduser() / spec.run_id

    @classmethod
    def open(cls, spec: RunSpec) -> RunStore:
        """The store of `spec`; nothing is written before `create`.

        Raises UserError when the folder was made with another spec or block size, or its manifest is damaged.
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
        if not manifest.is_file():
            return store
        try:
            found = json.loads(manifest.read_text())
            different = [key for key in ("format", "digest", "block_size") if found[key] != wanted[key]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"'{manifest}' is damaged ({error}); move the folder away, then run again"
            ) from error
        if different:
            key = different[0]
            raise UserError(
                f"'{folder}' was made with {key} {found[key]}, not {wanted[key]}; use {key}={found[key]} "
                "if that is what you meant, or another folder with out=..."
            )
        return store

    def create(self) -> None:
        """Write the manifest, unless it is there."""
        manifest = self.folder / "run.json"
        if not manifest.is_file():
            write_atomic(manifest, (json.dumps(self._manifest, indent=2) + "\n").encode())

    def has_images(self, block: Block, png: bool | None = None) -> bool:
        """Whether the block's images are kept, as PNG files or not; None: either way."""
        files = {True: self._png_index(block), False: self._images(block)}
        return any(path.is_file() for form, path in files.items() if png in (None, form))

    def write_images(self, block: Block, content: ImageBlock, png: bool = False) -> None:
        counts = {"nfe": content.nfe, "nfe_guide": content.nfe_guide}
        if png:
            facts = {**counts, "classes": content.classes.tolist()}
            write_png_block(self.folder / "png", self._png_index(block), block, content.images, facts)
            return
        tensors = {"images": content.images, "classes": content.classes}
        self._write(self._images(block), block, tensors, counts)

    def read_images(self, block: Block) -> ImageBlock:
        if self.has_images(block, png=True) and not self.has_images(block, png=False):
            images, facts = read_png_block(self.folder / "png", self._png_index(block), block)
            return ImageBlock(images, torch.tensor(facts["classes"]), facts["nfe"], facts["nfe_guide"])
        tensors, meta = self._read(self._images(block), block)
        return ImageBlock(tensors["images"], tensors["classes"], meta["nfe"], meta["nfe_guide"])

    def has_features(self, detector: str, block: Block) -> bool:
        return self._features(detector, block).is_file()

    def write_features(
        self,
        detector: str,
        block: Block,
        features: Mapping[str, Tensor],
        counts: Mapping[str, float],
    ) -> None:
        """detector: its key. features: float32 [B, ...] by name. counts: of the block's evaluations."""
        self._write(self._features(detector, block), block, features, counts)

    def read_features(self, detector: str, block: Block) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Features by name and the block's metadata, with the counted evaluations."""
        return self._read(self._features(detector, block), block)

    def note_timing(self, worker: Worker, block: Block, timing: Timing) -> None:
        """Append how a block was sampled; kept apart, since block files must repeat exactly."""
        path = self.folder / "seconds" / f"{worker.rank}-of-{worker.world_size}.jsonl"
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            with path.open("a") as file:  # a new line first: the last one may be torn
                file.write("\n" + json.dumps({"block": block.index, **timing._asdict()}))

    def timings(self) -> dict[int, Timing]:
        """How the blocks that were timed were sampled, by block number."""
        found = {}
        for path in sorted((self.folder / "seconds").glob("*.jsonl")):
            for line in path.read_text().splitlines():
                try:
                    entry = json.loads(line)
                    timing = Timing(**{key: value for key, value in entry.items() if key != "block"})
                    found[int(entry["block"])] = timing._replace(seconds=float(timing.seconds))
                except (ValueError, KeyError, TypeError):
                    continue  # a line of a worker that was killed while writing it
        return found

    @contextmanager
    def claims(self) -> Iterator[Claims]:
        """Which blocks others compute right now; held while a worker works."""
        path = self.folder / "locks" / "blocks"
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            claims = Claims(path)
        try:
            yield claims
        finally:
            claims.close()

    @contextmanager
    def worker_lock(self, worker: Worker) -> Iterator[None]:
        """Held while a worker writes; a second process that would do the same work is refused.

        Other seeds of the run may be worked on meanwhile. The operating system releases the lock when the
        process ends, however it ends. Raises BusyError.
        """
        locks = self.folder / "locks" / self._seeds
        own = locks / f"{worker.rank}-of-{worker.world_size}"
        with ExitStack() as stack:
            with writing(own):
                locks.mkdir(parents=True, exist_ok=True)
                mine = stack.enter_context(own.open("a+"))
            deadline = time.monotonic() + LOCK_GRACE_S
            self._await_lock(mine, own, fcntl.LOCK_EX, deadline)
            with writing(own):
                mine.truncate(0)
                mine.write(f"process {os.getpid()} on {os.uname().nodename}")
                mine.flush()
            for other in locks.glob("*-of-*"):
                if other.name.endswith(f"-of-{worker.world_size}"):
                    continue  # a fellow worker of the same launch
                with other.open("a+") as file:  # shared: fellow workers may look at the same time
                    self._await_lock(file, other, fcntl.LOCK_SH, deadline)
            yield

    def _await_lock(self, file: IO[str], lock: Path, kind: int, deadline: float) -> None:
        while not _try_lock(file.fileno(), kind):
            if time.monotonic() > deadline:
                raise self._busy(lock)
            time.sleep(0.1)

    def _busy(self, lock: Path) -> BusyError:
        return BusyError(
            f"another process works on '{self.folder}' already (worker {lock.name}: "
            f"{lock.read_text() or 'unknown'}); wait for it to end, or stop it, then run again"
        )

    def _images(self, block: Block) -> Path:
        return self.folder / "images" / f"{block.index:08d}.safetensors"

    def _png_index(self, block: Block) -> Path:
        return self.folder / "png-blocks" / f"{block.index:08d}.json"

    def _features(self, detector: str, block: Block) -> Path:
        return self.folder / "features" / detector / f"{block.index:08d}.safetensors"

    def _write(
        self, path: Path, block: Block, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]
    ) -> None:
        plain = {name: value.cpu().contiguous() for name, value in tensors.items()}
        meta = {
            "run": self.folder.name,
            "first_seed": block.seeds[0],
            "num_seeds": len(block.seeds),
            "sha256": _checksum(plain),
            **extra,
        }
        # One metadata key: safetensors does not keep the order of several, and bytes must repeat.
        write_atomic(path, safetensors_save(plain, {"erk_bench": json.dumps(meta, sort_keys=True)}))

    def _read(self, path: Path, block: Block) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and metadata of a block file; a damaged one is set aside, so that running again heals."""
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise UserError(
                f"block file '{path}' ({block}) is missing; run 'erk-bench generate' again with the same "
                "arguments: finished blocks are kept"
            ) from error
        try:
            tensors = safetensors_load(raw)
            header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
            meta = json.loads(header["__metadata__"]["erk_bench"])
            expected: dict[str, Any] = {"first_seed": block.seeds[0], "num_seeds": len(block.seeds)}
            expected["sha256"] = _checksum(tensors)
            wrong = [key for key, value in expected.items() if meta[key] != value]
            problem = f"its {wrong[0]} does not match" if wrong else ""
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            problem = str(error)
        if problem:
            aside = path.with_suffix(".damaged")
            with writing(aside):
                path.replace(aside)
            raise UserError(
                f"block file '{path}' ({block}) is damaged: {problem}. It was renamed to '{aside.name}'; "
                "run the same command again to compute it anew"
            )
        return tensors, meta


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks; files stay whole and equal all the same
        print(f"warning: no locks here ({error.strerror}); start only one launch", file=sys.stderr)
    return True
