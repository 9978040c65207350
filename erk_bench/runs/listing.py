"""Which block files of a run are there: one listing of its folders in place of a question a block."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from erk_bench.runs.blocks import Block
from erk_bench.runs.store import DAMAGED, RunStore


class Listing:
    """The names in a run's folders at one moment. It answers as the RunStore does, without the disk.

    detectors: keys of the detectors whose features are listed.
    """

    def __init__(self, store: RunStore, detectors: Sequence[str]) -> None:
        self._images = _names(store.folder / "images")
        self._png = _names(store.folder / "png-blocks")
        self._features = {key: _names(store.folder / "features" / key) for key in detectors}

    def has_images(self, block: Block, png: bool | None = None) -> bool:
        """As RunStore.has_images."""
        forms = {True: f"{block.index:08d}.json" in self._png, False: _file(block) in self._images}
        return any(there for form, there in forms.items() if png in (None, form))

    def has_features(self, detector: str, block: Block) -> bool:
        """As RunStore.has_features, for the detectors that were listed."""
        return _file(block) in self._features[detector]

    def lost_images(self, block: Block) -> bool:
        """As RunStore.lost_images."""
        return f"{block.index:08d}{DAMAGED}" in self._images and not self.has_images(block)


def _file(block: Block) -> str:
    return f"{block.index:08d}.safetensors"


def _names(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
