"""`erk-bench fetch`: the files of a track, table, grid or run into the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from erk_bench.base.config_files import config_file, listing
from erk_bench.base.errors import UserError
from erk_bench.commands.command import Command
from erk_bench.commands.options import GRID, TABLE, Flag, option
from erk_bench.commands.settings import SWEEP


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """Options of `erk-bench fetch`."""

    table: str | None = option(TABLE, "get the files of this table's rows", None)
    grid: str | None = option(GRID, "get the files of this grid's cells", None)
    dry_run: bool = option(Flag(), "only list the files", False)


def fetch(options: FetchOptions, words: list[str]) -> int:
    from erk_bench.commands.actions import fetch as action

    tracks = [word for word in words if "=" not in word]
    return action.fetch(options, tracks, [word for word in words if "=" in word])


def _check(words: Sequence[str]) -> None:
    for track in words:
        if track in listing()["model"]:
            raise UserError(f"'{track}' is a model; write model={track}")
        config_file("track", track)


COMMAND = Command(
    name="fetch",
    summary="get the files that a track or run needs into the cache, and verify them",
    run=fetch,
    options=FetchOptions,
    settings=SWEEP,
    words="[TRACK]",
    check=_check,
    known_words=lambda: listing()["track"],
    examples="""\
  erk-bench fetch imagenet512                               # all that its run and tables need
  erk-bench fetch imagenet512 dry_run=true                  # only list it
  erk-bench fetch model=edm2-img512-xxl-autog-dino          # what one run needs
  ERK_BENCH_MIRROR_EDM2=https://my.mirror/edm2 erk-bench fetch imagenet64
  settings from the environment: ERK_BENCH_CACHE (folder, ~/.cache/erk-bench), ERK_BENCH_LOCK (hashes,
  configs/assets.lock), ERK_BENCH_OFFLINE=1, ERK_BENCH_MIRROR_SOURCE (base address) for each source that
  'erk-bench doctor' lists""",
)
