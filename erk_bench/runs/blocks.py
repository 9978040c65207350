"""Who computes which seeds: blocks aligned to absolute seed numbers, dealt to workers by rank."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from erk_bench.base.errors import UserError


@dataclass(frozen=True, order=True)
class Block:
    """Block `index` holds seeds index * size .. index * size + size - 1, all of them, always."""

    index: int
    size: int

    @property
    def seeds(self) -> range:
        return range(self.index * self.size, (self.index + 1) * self.size)

    def __str__(self) -> str:
        return f"seeds {self.seeds[0]}-{self.seeds[-1]}"


class Worker(NamedTuple):
    """One of world_size processes that share a run; local_rank counts on its own machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Worker | None:
        """The worker that a launcher named by RANK, WORLD_SIZE and LOCAL_RANK; None without one."""
        if "RANK" not in environment and "WORLD_SIZE" not in environment:
            return None
        try:
            rank, world_size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
            local_rank = int(environment.get("LOCAL_RANK", rank))
        except (KeyError, ValueError) as error:
            raise UserError(
                "the launcher must set both RANK and WORLD_SIZE to numbers; found "
                f"RANK={environment.get('RANK')!r}, WORLD_SIZE={environment.get('WORLD_SIZE')!r}"
            ) from error
        if not 0 <= rank < world_size:
            raise UserError(f"RANK is {rank} but WORLD_SIZE is {world_size}; need 0 <= RANK < WORLD_SIZE")
        return cls(rank, world_size, local_rank)

    def owned(self, blocks: Sequence[Block], dealt: int = 0) -> Sequence[Block]:
        """This worker's share of the full list, finished or not: it does not depend on when it starts.

        dealt: blocks of other runs that were dealt before; the next worker in turn gets the first of these.
        """
        return blocks[(self.rank - dealt) % self.world_size :: self.world_size]


def blocks_of(seeds: range, block_size: int) -> list[Block]:
    """The blocks that hold `seeds`; the outer ones may hold further seeds too."""
    first, last = seeds[0] // block_size, seeds[-1] // block_size
    return [Block(index, block_size) for index in range(first, last + 1)]
