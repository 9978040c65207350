"""What a run would cost: counted evaluations, disk, and time from one timed batch."""

from __future__ import annotations

import functools
import time
from typing import NamedTuple

import torch
from torch import Tensor

from erk_bench.networks.latents import DECODERS
from erk_bench.sampling.sample import sample_counted
from erk_bench.spec import RunSpec, WeightsSpec
from erk_bench.stages import load_detectors, network, pick_device, sampler_options
from erk_bench.storage.blocks import Worker


def count_evaluations(spec: RunSpec) -> tuple[int, int]:
    """Evaluations of the main and of the guiding network for one image, counted on a one-pixel stand-in."""

    def stand_in(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        return x * 0.5

    guide = stand_in if spec.guidance.guide is not None else None
    sampled = sample_counted(stand_in, torch.ones(1, 1, 1, 1), None, **sampler_options(spec, guide))
    return sampled.nfe, sampled.nfe_guide


class Cost(NamedTuple):
    """Of one image: seconds of one evaluation of either network, and bytes kept on disk."""

    seconds: float
    seconds_guide: float
    bytes_per_image: int


def estimate(spec: RunSpec) -> Cost:
    """Time one batch of each network on this machine, and add up what an image leaves on disk."""
    device = pick_device(spec, Worker())
    net = network(spec.model.weights, device, spec.network_dtype)
    shape = (net.img_channels, net.img_resolution, net.img_resolution)
    guide = spec.guidance.guide if spec.guidance.weight != 1 else None
    seconds = _seconds_per_image(spec.model.weights, spec.block_size, device, spec.network_dtype)
    extra = 0.0
    if guide is not None:
        extra = _seconds_per_image(guide, spec.block_size, device, spec.network_dtype)
    image = DECODERS[spec.model.decoder].decode(torch.zeros(1, *shape))
    features = [
        value.nbytes for each in load_detectors(spec).values() for value in each.extract(image).values()
    ]
    return Cost(seconds, extra, image.nbytes + 8 + sum(features))


@functools.cache
def _seconds_per_image(weights: WeightsSpec, batch: int, device: torch.device, network_dtype: str) -> float:
    net = network(weights, device, network_dtype)
    x = torch.zeros(batch, net.img_channels, net.img_resolution, net.img_resolution, device=device)
    times = []
    with torch.inference_mode():
        for _ in range(3):
            start = time.perf_counter()
            net(x, 1.0, None).sum().item()
            times.append(time.perf_counter() - start)
    return min(times) / batch
