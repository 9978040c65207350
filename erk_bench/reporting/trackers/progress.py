"""How far a launch is, now and then, for a tracker to show."""

from __future__ import annotations

import time

from erk_bench.reporting.trackers.tracker import FRACTION, IMAGES, IMAGES_PER_S, SECONDS


class Progress:
    """Counts images. num_images: what the launch set out to do; every_s: seconds between two looks."""

    def __init__(self, num_images: int, every_s: float) -> None:
        self._num_images = num_images
        self._every_s = every_s
        self._start = self._last = time.monotonic()
        self._images = self._shown = self._expected = 0

    def expect(self, images: int) -> None:
        """So many more images will come; they count in the place of `num_images`."""
        self._expected += images

    def advance(self, images: int) -> dict[str, float]:
        """Count images; what to show if it is time, else nothing."""
        self._images += images
        return self._values() if time.monotonic() - self._last >= self._every_s else {}

    def rest(self) -> dict[str, float]:
        """What has not been shown yet, at the end."""
        return self._values() if self._images > self._shown else {}

    def _values(self) -> dict[str, float]:
        self._last = time.monotonic()
        self._shown = self._images
        seconds = self._last - self._start
        return {
            IMAGES: self._images,
            FRACTION: self._images / max(self._expected or self._num_images, 1),
            IMAGES_PER_S: self._images / max(seconds, 1e-9),
            SECONDS: seconds,
        }
