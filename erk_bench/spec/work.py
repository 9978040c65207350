"""What a run and a set of images have in common: seeds in blocks, and how they are worked on."""

from __future__ import annotations

import re

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.spec.identity import check
from erk_bench.spec.metrics import MetricsSpec

MAX_SEEDS = 10_000_000  # of one run

DEVICES = ("auto", "cpu", "cuda")


class Work:
    """Numbered images in blocks. Of a run the numbers are seeds, of a set the places in its order.

    seeds: "FIRST-LAST", both included. samples: what is kept of the images. block_size: images a file.
    device: "auto" takes CUDA if there is any. workers: local processes; None is one per GPU, or per CPU core.
    out: folder of all runs.
    """

    samples: str
    metrics: MetricsSpec
    block_size: int
    device: str
    workers: int | None
    offline: bool
    out: str

    @property
    def seeds(self) -> str:
        raise NotImplementedError

    @property
    def digest(self) -> str:
        """sha256 over the identity fields and PROTOCOL."""
        raise NotImplementedError

    @property
    def slug(self) -> str:
        """What it is, readable and not quite unique."""
        raise NotImplementedError

    @property
    def run_id(self) -> str:
        """The slug and a hash of the identity fields: the name of its folder."""
        return f"{self.slug}-{self.digest[:10]}"

    @property
    def seed_range(self) -> range:
        """The seeds as a range."""
        match = re.fullmatch("([0-9]{1,18})-([0-9]{1,18})", self.seeds)
        if match is None or int(match[1]) > int(match[2]):
            raise UserError(f"seeds is '{self.seeds}'; expected FIRST-LAST, for example 0-1999")
        seeds = range(int(match[1]), int(match[2]) + 1)
        # Generators take seeds modulo 2^32: larger ones would repeat earlier images.
        if seeds[-1] >= 2**32 or len(seeds) > MAX_SEEDS:
            raise UserError(f"seeds is '{self.seeds}'; they must be below 2^32, at most {MAX_SEEDS:,} a run")
        return seeds

    def check_work(self) -> None:
        """Refuse blocks, device, workers, folder or seeds that cannot be."""
        if self.device not in DEVICES:
            raise unknown_name("device", self.device, DEVICES)
        check(1 <= self.block_size <= 65_536, f"block_size is {self.block_size}; it must be 1 to 65536")
        check(self.out != "", "out is empty; name a folder, for example out=results/runs")
        check(
            self.workers is None or self.workers >= 1,
            f"workers is {self.workers}; it must be 1 or more, or null for one per device",
        )
        self.seed_range  # noqa: B018 - checks the text
