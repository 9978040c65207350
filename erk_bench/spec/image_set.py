"""A set of images that something else made: a folder, an archive, an array."""

from __future__ import annotations

import re
from dataclasses import dataclass

from erk_bench.base.fields import execution, identity, identity_fields
from erk_bench.spec.identity import check, digest_of
from erk_bench.spec.metrics import MetricsSpec
from erk_bench.spec.work import Work


@dataclass(frozen=True, kw_only=True)
class SetSpec(Work):
    """A set of images, known by its content, and what to measure of it.

    name: what tables call it. images: its place, as the user gave it. sha256: over names and bytes of its
    images in order. num_images: in the set, readable or not. height, width: of an image as it is measured.
    resolution: side to which images are cropped and resized as ADM does; None takes them as they are.
    numbers: FIRST-LAST where the file names are consecutive numbers, as in exports: runs of these seeds are
    compared with it as pairs; else "". names_sha256: over the names without ending: sets of equal names are
    compared as pairs. skip_unreadable: leave out what cannot be read; the record names it.
    """

    name: str = execution()
    images: str = execution()
    sha256: str = identity()
    num_images: int = execution()
    height: int = execution()
    width: int = execution()
    resolution: int | None = identity(None)
    numbers: str = execution("")
    names_sha256: str = execution("")
    skip_unreadable: bool = execution(False)
    metrics: MetricsSpec = execution()
    block_size: int = execution(100)
    device: str = execution("auto")
    workers: int | None = execution(None)
    offline: bool = execution(False)
    out: str = execution("results/runs")

    def __post_init__(self) -> None:
        check(
            re.fullmatch("[0-9a-f]{64}", self.sha256) is not None,
            f"sha256 of '{self.images}' is '{self.sha256}'; expected 64 hex digits",
        )
        check(self.num_images >= 1, f"'{self.images}' has {self.num_images} images; give at least one")
        for name in ("height", "width"):
            check(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1")
        self.check_work()

    @property
    def seeds(self) -> str:
        """The places of its images, from 0 on."""
        return f"0-{self.num_images - 1}"

    @property
    def samples(self) -> str:  # type: ignore[override]  # a set is kept by whoever made it
        return "none"

    @property
    def slug(self) -> str:
        """The same for every set: it is known by its content, whatever it is called."""
        return "images"

    @property
    def digest(self) -> str:
        """sha256 over its content and the crop."""
        return digest_of(identity_fields(self))
