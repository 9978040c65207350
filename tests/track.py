"""What tests of a whole track share: the command line in a process of its own, and random statistics."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from tests.http_server import FileServer


def random_stats(dim: int, seed: int) -> dict[str, np.ndarray]:
    """Statistics of random features, as EDM2's pickles hold them."""
    features = np.random.default_rng(seed).normal(size=(3 * dim, dim)) * 0.1
    return {"mu": features.mean(0), "sigma": np.cov(features.T)}


def environment_of(server: FileServer, sources: Iterable[str], home: Path) -> dict[str, str]:
    """A user's environment: an empty cache, mirrors instead of the publishers."""
    mirrors = {f"ERK_BENCH_MIRROR_{name.upper()}": f"{server.url}/{name}" for name in sources}
    plain = {key: value for key, value in os.environ.items() if not key.startswith("ERK_BENCH_")}
    return {
        **plain, **mirrors, "ERK_BENCH_CACHE": str(home / "cache"), "ERK_BENCH_LOCK": str(home / "lock"),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def erk_bench(
    *words: str, environment: Mapping[str, str], ranks: int = 0, status: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run `erk-bench`, under torchrun if there are ranks, and check its exit status."""
    launcher = [sys.executable]
    if ranks:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    done = subprocess.run(
        [*launcher, "-m", "erk_bench.cli", *words],
        env=environment, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done
