"""The pretended GPU itself: its numbers are the CPU's, devices do not mix, every wait is noted."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.pretend_gpu import PretendGpu

pytestmark = pytest.mark.usefixtures("pretend_gpu")


def on_gpu(*shape: int) -> Tensor:
    return torch.arange(float(torch.tensor(shape).prod()), device="cuda").reshape(shape)


def test_tensors_say_where_they_are() -> None:
    x = on_gpu(2, 3)
    assert x.is_cuda and x.device == torch.device("cuda", 0)
    assert (x * 2).is_cuda and x.cpu().device.type == "cpu" and torch.zeros(2).device.type == "cpu"
    assert x.cpu().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_numbers_are_the_cpus() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.BatchNorm2d(8), nn.Flatten()
    ).eval()
    x = torch.randn(2, 3, 5, 5)
    with torch.inference_mode():
        expected = net(x)
        assert torch.equal(net.to("cuda")(x.to("cuda")).cpu(), expected)


def test_changes_in_place_are_seen_by_views() -> None:
    x = on_gpu(4)
    x[1:3].mul_(10)
    x[torch.tensor([0], device="cuda")] = 7.0
    assert x.cpu().tolist() == [7, 10, 20, 3]


MIXED: dict[str, Callable[[], object]] = {
    "sum": lambda: on_gpu(2) + torch.ones(2),
    "matrix product": lambda: on_gpu(2, 2) @ torch.ones(2, 2),
    "weights": lambda: F.linear(on_gpu(1, 2), torch.ones(3, 2)),
    "cat": lambda: torch.cat([on_gpu(2), torch.ones(2)]),
    "where": lambda: torch.where(on_gpu(2) > 0, torch.ones(2), on_gpu(2)),
    "a CPU tensor's index": lambda: torch.ones(4)[on_gpu(2).long()],
    "in place": lambda: torch.ones(2).add_(on_gpu(2)),
    "a CPU's generator": lambda: torch.randn(2, generator=torch.Generator(), device="cuda"),
    "a GPU's generator": lambda: torch.randn(2, generator=torch.Generator("cuda")),
}


@pytest.mark.parametrize("name", MIXED)
def test_devices_do_not_mix(name: str) -> None:
    with pytest.raises(RuntimeError, match="mixes devices"):
        MIXED[name]()


def test_a_number_of_the_cpu_may_meet_the_gpu(pretend_gpu: PretendGpu) -> None:
    with pretend_gpu.watch() as waits:
        assert (on_gpu(2) + torch.tensor(1.0)).is_cuda
    assert waits == []


def test_numpy_does_not_take_a_gpus_tensor() -> None:
    with pytest.raises((TypeError, RuntimeError)):
        on_gpu(2).numpy()


WAITS: dict[str, tuple[str, Callable[[Tensor], object]]] = {
    "item": ("value read", lambda x: x.sum().item()),
    "float": ("value read", lambda x: float(x[0])),
    "if": ("value read", lambda x: bool((x > 0).any())),
    "equal": ("value read", lambda x: torch.equal(x, x)),
    "nonzero": ("nonzero", lambda x: (x > 0).nonzero()),
    "mask": ("mask as an index", lambda x: x[x > 1]),
    "write by mask": ("mask as an index", lambda x: x.__setitem__(x > 1, x[:2] + 1)),
    "unique": ("unique", lambda x: x.unique()),
    "cpu": ("copy to the host", lambda x: x.cpu()),
    "tolist": ("copy to the host", lambda x: x.tolist()),
    "to pageable memory": ("copy to the host", lambda x: torch.empty(4).copy_(x, non_blocking=True)),
    "tensor": ("copy to the GPU", lambda x: torch.tensor([1.0, 2.0], device="cuda")),
    "number": ("copy to the GPU", lambda x: torch.as_tensor(2.0, device=x.device)),
    "new_tensor": ("copy to the GPU", lambda x: x.new_tensor([1.0])),
    "to": ("copy to the GPU", lambda x: torch.ones(3).to(x)),
    "not pinned": ("copy to the GPU", lambda x: torch.ones(3).to("cuda", non_blocking=True)),
    "copy_": ("copy to the GPU", lambda x: x.copy_(torch.ones(4))),
    "index of the CPU": ("copy to the GPU", lambda x: x[torch.tensor([0, 1])]),
    "list as an index": ("copy to the GPU", lambda x: x[[0, 2]]),
    "synchronize": ("synchronize", lambda x: torch.cuda.synchronize()),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", WAITS)
def test_waits_are_noted(name: str, inference: bool, pretend_gpu: PretendGpu) -> None:
    kind, wait = WAITS[name]
    with torch.inference_mode(inference):
        x = on_gpu(4)
        with pretend_gpu.watch() as waits:
            wait(x)
    assert [found.kind for found in waits] == [kind]
    assert "test_pretend_gpu.py:" in waits[0].place


FREE: dict[str, Callable[[Tensor], object]] = {
    "full": lambda x: torch.full((2,), 0.5, device=x.device),
    "arithmetic": lambda x: torch.where(x > 1, x * 2, 0.0).clamp(max=3),
    "slices": lambda x: x[1:3],
    "index of the GPU": lambda x: x[torch.arange(2, device="cuda")],
    "pinned": lambda x: torch.ones(3).pin_memory().to("cuda", non_blocking=True),
    "to pinned": lambda x: torch.empty(4, pin_memory=True).copy_(x, non_blocking=True),
    "other dtype": lambda x: x.double(),
    "drawn": lambda x: torch.randn(2, generator=torch.Generator("cuda").manual_seed(1), device="cuda"),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", FREE)
def test_what_does_not_wait(name: str, inference: bool, pretend_gpu: PretendGpu) -> None:
    with torch.inference_mode(inference):
        x = on_gpu(4)
        with pretend_gpu.watch() as waits:
            FREE[name](x)
    assert waits == []


def test_a_copy_beside_arrives_with_its_event() -> None:
    x, host, done = on_gpu(3) + 1, torch.empty(3, pin_memory=True), torch.cuda.Event()
    host.copy_(x, non_blocking=True)
    done.record()
    assert host.tolist() == [0, 0, 0]
    done.synchronize()
    assert host.tolist() == [1, 2, 3]


def test_waits_of_other_threads_do_not_hold_the_sampler(pretend_gpu: PretendGpu) -> None:
    x, found = on_gpu(2), []
    thread = threading.Thread(target=lambda: found.append(torch.ones(2).to("cuda") + x))
    with pretend_gpu.watch() as waits:
        thread.start()
        thread.join()
    assert waits == [] and found[0].cpu().tolist() == [1, 2]
