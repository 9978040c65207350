"""Files of a model's statistics, for solver dpm_solver_v3."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path

import torch

from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.base.tensor_files import METADATA_KEY, read_tensors, write_tensors
from erk_bench.runs.loaded import checked_file
from erk_bench.sampling.dpm_solver_v3 import ModelStatistics
from erk_bench.spec import WeightsSpec

PARTS = ("sigmas", "l", "s", "b")


@functools.lru_cache(maxsize=4)
def model_statistics(file: WeightsSpec, assets: Assets) -> ModelStatistics:
    """The statistics of a file. Raises UserError for a changed or damaged one, or one of another kind."""
    path = checked_file(file, assets)
    tensors = read_tensors(path).tensors
    if set(tensors) != set(PARTS):
        raise UserError(
            f"'{path}' has the tensors {', '.join(sorted(tensors))}; solver.statistics takes a file of "
            f"'erk-bench statistics', with {', '.join(PARTS)}"
        )
    return ModelStatistics(*(tensors[name].double().numpy() for name in PARTS))


def write_statistics(path: Path, found: ModelStatistics, how: Mapping[str, object]) -> None:
    """Write them, complete or not at all. how: of what they are, as JSON values."""
    tensors = {name: torch.from_numpy(getattr(found, name)) for name in PARTS}
    write_tensors(path, tensors, {METADATA_KEY: json.dumps(how)})
