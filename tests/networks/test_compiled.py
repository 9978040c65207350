"""Compiled networks: traced whole, and compiled once whatever the batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from erk_bench.base.errors import UserError
from erk_bench.networks.compiled import CompiledDenoiser
from erk_bench.sampling.sample import draw, sample
from erk_bench.sampling.shared import sample_grid
from tests.conftest import golden_net

pytestmark = pytest.mark.slow  # tracing takes seconds


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.parametrize("letter", "abcdefghi")
def test_networks_are_traced_whole(letter: str) -> None:
    """fullgraph: an operation that torch cannot trace is an error."""
    net = golden_net(letter)
    noise, labels = draw(range(2), net)
    with torch.inference_mode():
        found = CompiledDenoiser(net, "eager")(noise, torch.tensor(2.0), labels)
        assert torch.equal(found, net(noise, torch.tensor(2.0), labels))
    assert graphs() == 1


def test_class_numbers_are_traced_and_looked_at() -> None:
    net = golden_net("c")
    noise, labels = draw(range(3), net)
    assert labels is not None
    compiled = CompiledDenoiser(net, "eager")
    with torch.inference_mode():
        found = compiled(noise, torch.tensor(2.0), labels.argmax(dim=1))
        assert torch.equal(found, net(noise, torch.tensor(2.0), labels))
        with pytest.raises(UserError, match="class numbers are 0 to 99; the network has 0 to"):
            compiled(noise, torch.tensor(2.0), torch.tensor([0, 1, 99]))
    assert graphs() == 1


def test_a_network_is_compiled_once_for_all_batches() -> None:
    net = golden_net("c")
    compiled = CompiledDenoiser(net, "eager")
    for batch in (2, 3, 5, 8, 4, 7, 6, 9, 10, 11, 12, 13):
        noise, labels = draw(range(batch), net)
        with torch.inference_mode():
            expected = net(noise, torch.tensor(2.0), labels)
            assert torch.equal(compiled(noise, torch.tensor(2.0), labels), expected)
    assert graphs() == 1


def test_a_grid_compiles_few_graphs() -> None:
    net: Any = golden_net("c")
    noise, labels = draw(range(4), net)
    cells = [(0.0, 0.5), *((w_stiff, w_con) for w_stiff in (0.5, 1.0, 2.0) for w_con in (0.01, 0.3, 1.0))]
    sizes = set()

    def watched(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        sizes.add(len(x))
        return compiled(x, *rest)

    watched.num_classes = net.num_classes  # type: ignore[attr-defined]
    compiled = CompiledDenoiser(net, "eager")
    options: dict[str, Any] = {"cells": cells, "num_steps": 6, "branch_limit": 32}
    found = sample_grid(watched, noise, labels, **options)
    assert torch.equal(found.x, sample_grid(net, noise, labels, **options).x)
    assert len(sizes) > 2 and graphs() <= 2  # one for a batch of one


def test_adaptive_steps_compile_few_graphs() -> None:
    net = golden_net("c")
    noise, labels = draw(range(6), net)
    compiled = CompiledDenoiser(net, "eager")
    sample(compiled, noise, labels, solver="heun_adaptive", num_steps=3)
    assert graphs() <= 4  # one level for all or one each; a batch of one
