"""Moving between host and GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from erk_bench.base.transfers import number_on, rows_where, to_device, to_host
from tests.pretend_gpu import PretendGpu

CPU = torch.device("cpu")


@pytest.mark.parametrize("value", [80.0, 3, 0.002, torch.tensor(0.1, dtype=torch.float64), np.float32(0.7)])
def test_numbers_are_rounded_as_ever(value: float) -> None:
    expected = torch.as_tensor(value, dtype=torch.float32)
    found = number_on(value, torch.float32, CPU)
    assert found.dtype == torch.float32 and torch.equal(found, expected) and found.shape == expected.shape


def test_rows_where() -> None:
    masks = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    assert [rows.tolist() for rows in rows_where(*masks)] == [[0, 2], [], [0, 1, 2]]
    assert [rows.tolist() for rows in rows_where(masks[0, :0])] == [[]]
    assert all(rows.dtype == torch.int64 for rows in rows_where(*masks))


def test_there_and_back_without_a_wait(pretend_gpu: PretendGpu) -> None:
    with pretend_gpu.watch() as waits:
        there = to_device(torch.arange(3), torch.device("cuda"))
        back = to_host(there * 2)
    assert there.is_cuda and waits == []
    assert back().tolist() == [0, 2, 4]  # only now the copy is complete


def test_a_cpu_copies_nothing() -> None:
    x = torch.ones(2)
    assert to_device(x, CPU) is x and to_host(x)() is x
