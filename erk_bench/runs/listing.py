"""Which block files of a run are there: one listing of its folders in place of a question a block."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from erk_bench.runs.blocks import Block
from erk_bench.runs.store import DAMAGED, RunStore, folders_in, names_in


class Listing:
    """The names in a run's folders at one moment. It answers as the RunStore does, without the disk.

    detectors: keys of the detectors whose features are listed.
    """

    def __init__(self, store: RunStore, detectors: Sequence[str]) -> None:
        there = folders_in(store.folder) if detectors else ("images", "png-blocks")

        def names(folder: str, inside: str = "") -> frozenset[str]:
            return names_in(store.folder / folder / inside) if folder in there else frozenset()

        self._images, self._png = names("images"), names("png-blocks")
        self._features = {key: names("features", key) for key in detectors}

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


class Listings:
    """The listings of several runs, each taken when it is asked for, and again when it is too old.

    However many blocks and workers there are, a network file system answers a few questions a run.
    """

    def __init__(self, stores: Mapping[str, RunStore], keys: Mapping[str, Sequence[str]]) -> None:
        """By run_id: the stores, and the keys of the detectors whose features are listed."""
        self._stores, self._keys = stores, keys
        self._kept: dict[str, tuple[float, Listing]] = {}

    def of(self, run_id: str, max_age: float) -> Listing:
        """What the run had at most `max_age` seconds ago."""
        taken, listing = self._kept.get(run_id, (-max_age, None))
        now = time.monotonic()
        if listing is None or now - taken > max_age:
            listing = Listing(self._stores[run_id], self._keys[run_id])
            self._kept[run_id] = (now, listing)
        return listing


def _file(block: Block) -> str:
    return f"{block.index:08d}.safetensors"
