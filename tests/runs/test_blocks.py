"""Who computes which seeds."""

from __future__ import annotations

import pytest

from erk_bench.base.errors import UserError
from erk_bench.runs.blocks import Block, Worker, blocks_of


def test_blocks_are_aligned_to_absolute_seeds() -> None:
    blocks = blocks_of(range(100, 161), 25)
    assert [block.index for block in blocks] == [4, 5, 6]
    assert blocks[0].seeds == range(100, 125)
    assert set(blocks_of(range(110, 140), 25)) < set(blocks_of(range(0, 1000), 25))
    assert str(Block(2, 10)) == "seeds 20-29"


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 50])
def test_every_block_has_one_owner(world_size: int) -> None:
    blocks = blocks_of(range(1000), 25)
    shares = [Worker(rank, world_size, rank).owned(blocks) for rank in range(world_size)]
    assert sorted(block for share in shares for block in share) == blocks


@pytest.mark.parametrize("world_size", [1, 3, 8, 1000])
def test_dealing_goes_on_where_it_ended(world_size: int) -> None:
    """Over several runs no worker has more than one block more than another."""
    runs = [blocks_of(range(count), 25) for count in (1000, 75, 125)]
    counts = [0] * world_size
    dealt = 0
    for blocks in runs:
        shares = [Worker(rank, world_size, rank).owned(blocks, dealt) for rank in range(world_size)]
        assert sorted(block for share in shares for block in share) == blocks
        counts = [count + len(share) for count, share in zip(counts, shares, strict=True)]
        dealt += len(blocks)
    assert max(counts) - min(counts) <= 1


def test_worker_from_environment() -> None:
    assert Worker.from_environment({}) is None
    assert Worker.from_environment({"RANK": "0", "WORLD_SIZE": "1"}) == Worker(0, 1, 0)
    assert Worker.from_environment({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) == Worker(5, 8, 1)
    assert Worker.from_environment({"RANK": "5", "WORLD_SIZE": "8"}) == Worker(5, 8, 5)


@pytest.mark.parametrize(
    "environment",
    [{"RANK": "0"}, {"WORLD_SIZE": "2"}, {"RANK": "a", "WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"},
     {"RANK": "-1", "WORLD_SIZE": "2"}],
)  # fmt: skip
def test_broken_launchers_are_named(environment: dict[str, str]) -> None:
    with pytest.raises(UserError, match="RANK"):
        Worker.from_environment(environment)
