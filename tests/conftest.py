"""What tests share: golden files, the golden networks, small digits runs; and their isolation."""

from __future__ import annotations

import gc
import json
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import erk_bench
from erk_bench.commands.compose import run_spec
from erk_bench.networks.denoiser import EDMPreconditioned
from erk_bench.networks.edm2 import EDM2Network
from erk_bench.spec import RunSpec
from tests.isolation import Isolation
from tests.pretend_gpu import pretend_gpu as pretend_gpu  # a fixture of all tests

DATA = Path(__file__).parent / "data"

_SHARED = tempfile.TemporaryDirectory(prefix="erk-bench-tests-")  # removed with the process
ISOLATION = Isolation(Path(_SHARED.name))

torch.set_num_threads(1)  # more only fight each other on small tensors


def pytest_collection_finish() -> None:
    """What is imported by now stays until the end: the garbage collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


def pytest_unconfigure() -> None:
    """At the end it must: libraries that count their objects complain of what is left."""
    gc.unfreeze()


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
def golden_net(letter: str) -> EDMPreconditioned:
    """Golden network a to i, ready for inference."""
    net = erk_bench.load_denoiser(golden_path(letter))
    assert isinstance(net, EDMPreconditioned)
    return net


def slow_but(names: Iterable[str], quick: Container[str]) -> list[Any]:
    """Parameters of a test, of which all but the quick ones are marked slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def raw_edm2(net: EDMPreconditioned) -> EDM2Network:
    """The raw network of an EDM2 denoiser."""
    assert isinstance(net.network, EDM2Network)
    return net.network


@pytest.fixture(scope="session", autouse=True)
def isolated_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What fixtures of a module or of the session find: an empty home, cache and working folder."""
    with ISOLATION.within(tmp_path_factory.mktemp("session")):
        ISOLATION.touched.clear()  # imports of test modules, in the folder of whoever started pytest
        ISOLATION.results.clear()
        yield


@pytest.fixture(autouse=True)
def isolated_test(
    request: pytest.FixtureRequest, isolated_session: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Gives every test a home, a cache and a working folder of its own; fails if it used others."""
    with ISOLATION.within(tmp_path_factory.mktemp("test")):
        yield
    touched, results = sorted(set(ISOLATION.touched)), sorted(set(ISOLATION.results))
    ISOLATION.touched.clear()
    ISOLATION.results.clear()
    assert not touched, f"touched what is not the test's own: {', '.join(touched)}"
    marked = request.node.get_closest_marker("results")
    assert marked or not results, f"mark it with pytest.mark.results, it used {', '.join(results)}"


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
