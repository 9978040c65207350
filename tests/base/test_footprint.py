"""Operations and memory of small networks, beside counts by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from erk_bench.base.footprint import Footprint, Sketch, footprint


def counted(network: nn.Module, *shape: int) -> Footprint:
    return footprint(Sketch(network, network), torch.empty(*shape, device="meta"))


class Network(nn.Module):
    """Two layers on 4 rows of 8 numbers: 128 bytes each; `kind` says how they are joined."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.first(x)
        match self.kind:
            case "skip":  # the first is kept until the sum is there
                return self.second(y) + y
            case "in place":
                return F.relu(y, inplace=True)
            case "views":  # nothing new but the layer's
                return y.reshape(2, 16).t()[:, None]
            case "half":
                return y.half()
            case "dropped":  # four times as much for a moment
                y.repeat(4, 1)
        return self.second(y) if self.kind != "chain" else self.second(self.first(y)[:2])


def test_operations_and_weights_by_hand() -> None:
    network = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5)).to("meta")
    found = counted(network, 3, 10)
    assert found.flops == 2 * 3 * (10 * 20 + 20 * 5)
    assert found.weights == 4 * (10 * 20 + 20 + 20 * 5 + 5)
    assert found.activations == 2 * (3 * 20 * 4)  # relu's input and output
    convolution = nn.Conv2d(3, 8, 3, padding=1).to("meta")
    assert counted(convolution, 2, 3, 16, 16) == (
        2 * 2 * 256 * 8 * 27,
        4 * (8 * 27 + 8),
        2 * 8 * 256 * 4,
        2 * 3 * 256 * 4,
    )


def test_memory_by_hand() -> None:
    one = 4 * 8 * 4
    for kind, most in {
        "skip": 3 * one, "in place": one, "views": one, "half": one + one // 2, "dropped": 5 * one,
        "chain": 2 * one + one // 2,
    }.items():  # fmt: skip
        assert counted(Network(kind).to("meta"), 4, 8).activations == most, kind


def test_shared_weights_count_once_and_views_of_them_not_at_all() -> None:
    one, other = nn.Linear(8, 8).to("meta"), nn.Linear(8, 8).to("meta")
    other.weight = one.weight
    both = nn.ModuleList([one, other])
    found = footprint(Sketch(both, lambda x: x @ other.weight.t()), torch.empty(4, 8, device="meta"))
    assert found.weights == 4 * (64 + 8 + 8) and found.activations == 4 * 8 * 4


def test_a_batch_takes_so_many_times_as_much() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 3, 1)).to("meta")
    one, eight = (counted(network, batch, 3, 16, 16) for batch in (1, 8))
    assert eight == (8 * one.flops, one.weights, 8 * one.activations, 8 * one.largest_input)
    assert one.largest_input == 4 * 8 * 16 * 16
