"""What tests share: golden files, the golden networks, small digits runs."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import erk_bench
from erk_bench.composing import run_spec
from erk_bench.networks.denoiser import DenoiserNetwork
from erk_bench.spec import RunSpec

DATA = Path(__file__).parent / "data"

# Tests never reach the network, nor a user's cache.
os.environ["ERK_BENCH_OFFLINE"] = "1"
_FOLDER = tempfile.TemporaryDirectory(prefix="erk-bench-tests-")  # removed with the process
os.environ["ERK_BENCH_CACHE"] = f"{_FOLDER.name}/cache"
os.environ["ERK_BENCH_LOCK"] = f"{_FOLDER.name}/assets.lock"

torch.set_num_threads(1)  # more only fight each other on small tensors


@cache
def golden(name: str) -> dict[str, torch.Tensor]:
    """Tensors of tests/data/NAME.safetensors."""
    return load_file(DATA / f"{name}.safetensors")


@cache
def golden_facts(name: str) -> dict[str, Any]:
    """Content of tests/data/NAME.json."""
    content: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
    return content


def golden_path(letter: str) -> Path:
    """The published-format pickle of golden network a to e (EDM2) or f to i (EDM1)."""
    return next(DATA.glob(f"edm[12]_{letter}_*.pkl"))


@cache
def golden_net(letter: str) -> DenoiserNetwork:
    """Golden network a to i, ready for inference."""
    return erk_bench.load_denoiser(golden_path(letter))


@pytest.fixture
def small_run(tmp_path: Path) -> Callable[..., RunSpec]:
    """Makes specs of quick digits runs: 4 steps, blocks of 8, one worker, in the test's own folder."""

    def make(*overrides: str) -> RunSpec:
        defaults = (
            "schedule.num_steps=4",
            "seeds=0-39",
            "block_size=8",
            "workers=1",
            "device=cpu",
            f"out={tmp_path / 'runs'}",
            "metrics.num_groups=5",
            "metrics.kid_subset_size=20",
        )
        return run_spec([*defaults, *overrides])

    return make
