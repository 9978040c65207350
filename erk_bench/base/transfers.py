"""Between host and GPU, with as few waits as there can be: a host that waits lets the GPU run dry."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def number_on(value: Tensor | float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number as a tensor without dimensions; a tensor as it is, of this dtype and device."""
    if isinstance(value, (int, float)):
        return torch.full((), value, dtype=dtype, device=device)  # filled there, where a copy would wait
    return torch.as_tensor(value, dtype=dtype, device=device)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; the copy to a GPU goes on beside."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Callable[[], Tensor]:
    """Start copying to host memory; the function returned waits until the copy is complete."""
    if not tensor.is_cuda:
        return lambda: tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(tensor.device))

    def wait() -> Tensor:
        done.synchronize()
        return host

    return wait


def rows_where(*masks: Tensor) -> list[Tensor]:
    """Where each mask [N] is true, int64, on its device: one wait for all of them."""
    counts = torch.stack(masks).sum(dim=1).tolist()
    return [torch.nonzero_static(mask, size=count)[:, 0] for mask, count in zip(masks, counts, strict=True)]
