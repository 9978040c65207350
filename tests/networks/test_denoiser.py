"""What a denoiser takes as condition: class numbers, one-hot rows, the null class, nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import erk_bench
from erk_bench.base.errors import UserError
from erk_bench.networks.denoiser import class_numbers, one_hot_rows
from erk_bench.sampling.guided import under_null_class
from erk_bench.sampling.sample import sample_counted
from erk_bench.sampling.shared import sample_grid
from tests.conftest import golden_net

CLASSES = torch.tensor([3, 10, 0])  # of ten; the second is the null class


def test_rows_and_numbers_say_the_same() -> None:
    rows = one_hot_rows(CLASSES, 10)
    assert rows.dtype == torch.float32 and rows.shape == (3, 10)
    assert rows.argmax(1).tolist() == [3, 0, 0] and rows.sum(1).tolist() == [1, 0, 1]
    assert torch.equal(class_numbers(rows, 10), CLASSES)
    assert torch.equal(one_hot_rows(rows, 10), rows) and torch.equal(class_numbers(CLASSES, 10), CLASSES)
    assert torch.equal(one_hot_rows(rows.long(), 10), rows)
    assert torch.equal(class_numbers(rows.long(), 10), CLASSES)


@pytest.mark.parametrize("number", [-1, 11])
def test_class_numbers_that_there_are_not(number: int) -> None:
    with pytest.raises(
        UserError, match=f"class numbers are {min(0, number)} to .*the network has 0 to 9, and 10 for"
    ):
        erk_bench.load_denoiser("digits")(torch.zeros(2, 1, 8, 8), 1.0, torch.tensor([0, number]))


@pytest.mark.parametrize("letter", "cf")
def test_a_network_takes_either(letter: str) -> None:
    net = golden_net(letter)
    assert net.num_classes == net.label_dim
    classes = torch.tensor([1, net.num_classes, 0])
    x = torch.randn(3, net.img_channels, net.img_resolution, net.img_resolution)
    found = net(x, 2.0, classes)
    assert torch.equal(found, net(x, 2.0, one_hot_rows(classes, net.num_classes)))
    assert (found[1:2] - net(x[1:2], 2.0)).abs().max() < 1e-5  # the null class is no condition


def guide(x: Tensor, sigma: Tensor, condition: Tensor | None) -> Tensor:
    """The digits network without a class, written by hand."""
    return erk_bench.load_denoiser("digits")(x, sigma, torch.zeros(len(x), 10))


@pytest.mark.parametrize("one_hot", [True, False])
def test_the_same_network_guides_under_its_null_class(one_hot: bool) -> None:
    net = erk_bench.load_denoiser("digits")
    noise, labels = erk_bench.draw([0, 1, 2], net)
    assert labels is not None
    condition = labels if one_hot else labels.argmax(1)
    options = {"num_steps": 4, "guidance": 2.0}
    found = sample_counted(net, noise, condition, guide=net, **options)  # type: ignore[arg-type]  # plain options
    by_hand = sample_counted(net, noise, condition, guide=guide, **options)  # type: ignore[arg-type]  # as above
    assert torch.equal(found.x, by_hand.x)
    assert (found.nfe, found.nfe_guide) == (7, 7)
    assert not torch.equal(found.x, erk_bench.sample(net, noise, condition, num_steps=4))
    cells = sample_grid(net, noise, condition, cells=[(0.0, 0.0)], guide=net, num_steps=4, guidance=2.0)
    assert torch.equal(cells.x[0], found.x)


def test_the_null_class_of_a_network_that_tells_no_classes() -> None:
    x, classes = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
    null = under_null_class(lambda x, sigma, condition: x if condition is None else condition)
    assert torch.equal(null(x, 1.0, None), x)
    assert not null(x, 1.0, torch.eye(2)).any()
    with pytest.raises(UserError, match="tells no number of classes; give it an attribute num_classes"):
        null(x, 1.0, classes)
