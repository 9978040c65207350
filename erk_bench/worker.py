"""What a worker computes: its device, its networks, and the images of one block of seeds."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from erk_bench.errors import UserError
from erk_bench.networks.checkpoint import build_denoiser, read_checkpoint
from erk_bench.networks.edm2 import Precond
from erk_bench.networks.latents import DECODERS, Decode
from erk_bench.networks.sizes import architecture
from erk_bench.sampling.sample import sample_counted
from erk_bench.sampling.seeds import SeededDraws, initial
from erk_bench.spec import ModelSpec, RunSpec, WeightsSpec
from erk_bench.storage.assets import Assets
from erk_bench.storage.blocks import Worker
from erk_bench.storage.store import ImageBlock


def assets_of(spec: RunSpec) -> Assets:
    """The cache as the environment and the spec have it."""
    return Assets.from_environment(spec.offline)


def pick_device(spec: RunSpec, worker: Worker) -> torch.device:
    """The worker's device: its own GPU if there are any and the spec allows, else the CPU."""
    return set_up_device(spec.device, worker.local_rank)


def set_up_device(choice: str, local_rank: int) -> torch.device:
    """The device of `choice` (auto, cpu or cuda), set up so that all of a run's arithmetic is alike."""
    available = torch.cuda.is_available()
    if choice == "cuda" and not available:
        raise UserError("device is 'cuda' but torch sees no GPU; use device=cpu, or see 'erk-bench doctor'")
    if choice == "cpu" or not available:
        # One thread a worker: bytes must not depend on the number of cores. Use more workers instead.
        torch.set_num_threads(1)
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)  # for streams and events, which follow the current device
    return device


def check_draws(spec: RunSpec) -> None:
    """Refuse to draw a GPU's random numbers on a CPU, whose generators give others."""
    if spec.draw_device == "cuda" and (spec.device == "cpu" or not torch.cuda.is_available()):
        raise UserError(
            "draw_device is 'cuda' but the device is a CPU, whose generators draw other numbers; use "
            "draw_device=cpu (other images of the same distribution)"
        )


@contextmanager
def memory_guard(spec: RunSpec) -> Iterator[None]:
    """Turns a GPU's lack of memory into one error that names the batch to try."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"out of GPU memory with block_size {spec.block_size}, which is also the network's batch; "
            f"nothing is lost. Try block_size={max(spec.block_size // 2, 1)} (with another out=..., if this "
            "run has blocks already)"
        ) from error


def network_init(weights: WeightsSpec, assets: Assets) -> Mapping[str, Any]:
    """Constructor arguments of a network: of its file where that is here, else of its published size.

    Raises UserError where neither is known.
    """
    if assets.is_here(weights.path):
        return _init_of(assets.locate(weights.path))
    if weights.architecture is None:
        raise UserError(
            f"'{weights.path}' is not here and its architecture is not given; run 'erk-bench fetch' first"
        )
    return architecture(weights.architecture)


@functools.lru_cache(maxsize=16)
def _init_of(path: Path) -> Mapping[str, Any]:
    return read_checkpoint(path).init


def checked_file(weights: WeightsSpec, assets: Assets) -> Path:
    """The file of weights. Raises UserError if its sha256 is not the one that the run is named after."""
    path = assets.locate(weights.path)
    found = assets.sha256(weights.path)
    if found != weights.sha256:
        raise UserError(
            f"'{path}' has sha256 {found}, not {weights.sha256}; the file changed or is damaged: "
            "fetch it again, or clear the sha256 in its config to accept the new file"
        )
    return path


@functools.lru_cache(maxsize=4)
def network(
    weights: WeightsSpec, device: torch.device, network_dtype: str, assets: Assets, compiled: bool = False
) -> Precond:
    """A checkpoint's network, kept for the next block. Raises UserError if its sha256 is another."""
    path = checked_file(weights, assets)
    net = build_denoiser(read_checkpoint(path), device, getattr(torch, network_dtype))
    if compiled:
        net.compile(dynamic=False)  # blocks are always whole, so shapes never change
    return net


@functools.lru_cache(maxsize=2)
def decoder(model: ModelSpec, device: torch.device, assets: Assets) -> Decode:
    """The model's way from final state to uint8 images, kept for the next block."""
    row = DECODERS[model.decoder]
    if row.decode is not None:
        return row.decode
    assert row.load is not None
    if model.vae is None or model.vae_config is None:
        raise UserError(
            f"decoder '{model.decoder}' needs weights; set model.vae.path=FILE (with its config.json beside)"
        )
    return row.load(checked_file(model.vae, assets), checked_file(model.vae_config, assets), device)


class SampledBlock(NamedTuple):
    """Images of a block where they were made; `host` waits for their copy in host memory.

    seconds: wall time of drawing and sampling, without decoding.
    """

    on_device: Tensor
    host: Callable[[], ImageBlock]
    seconds: float


def sample_block(spec: RunSpec, seeds: Sequence[int], device: torch.device) -> SampledBlock:
    """Draw, sample and decode the images of `seeds`; the same for whoever calls.

    Raises UserError naming the seeds whose result is not finite, or a batch that fits into the GPU's memory.
    """
    check_draws(spec)
    with memory_guard(spec):
        return _sample_block(spec, seeds, device)


def _sample_block(spec: RunSpec, seeds: Sequence[int], device: torch.device) -> SampledBlock:
    assets = assets_of(spec)
    net = network(spec.model.weights, device, spec.network_dtype, assets, spec.compile)
    channels = DECODERS[spec.model.decoder].channels
    if net.img_channels != channels:
        raise UserError(
            f"decoder '{spec.model.decoder}' takes {channels} channels, the model has "
            f"{net.img_channels}; set model.decoder to the model's own"
        )
    guide = None
    if spec.guidance.guide is not None and spec.guidance.weight != 1:
        guide = network(spec.guidance.guide, device, spec.network_dtype, assets, spec.compile)
        shapes = [(each.img_channels, each.img_resolution) for each in (net, guide)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"main and guiding network differ in (channels, resolution): {shapes[0]} and {shapes[1]}"
            )
    if spec.class_label is not None and not 0 <= spec.class_label < net.label_dim:
        raise UserError(
            f"class_label is {spec.class_label}; this model has labels 0 to {net.label_dim - 1}"
            if net.label_dim
            else "class_label is set but the model is unconditional; use class_label=null"
        )
    start = time.perf_counter()
    draws = SeededDraws(seeds, device if spec.draw_device == "cuda" else "cpu")
    shape = (net.img_channels, net.img_resolution, net.img_resolution)
    noise, labels = initial(draws, shape, net.label_dim, spec.class_label)
    sampled = sample_counted(
        net,
        _to_device(noise, device),
        None if labels is None else _to_device(labels, device),
        **sampler_options(spec, guide),
        fresh_noise=draws.normal_like,
    )
    finite = sampled.x.isfinite().flatten(1).all(dim=1).tolist()
    seconds = time.perf_counter() - start  # reading `finite` waited for the device
    bad = [seed for seed, good in zip(seeds, finite, strict=True) if not good]
    if bad:
        raise UserError(
            f"the sampler's result is not finite for seeds {', '.join(map(str, bad[:5]))}"
            f"{' and others' if len(bad) > 5 else ''} ({len(bad)} of {len(seeds)}) in {spec.run_id}; nothing "
            "was written for this block. Try network_dtype=float32 or a smaller w_stiff"
        )
    images = decoder(spec.model, device, assets)(sampled.x)
    classes = labels.argmax(1).cpu() if labels is not None else torch.full((len(seeds),), -1)
    copied = _to_host(images)
    return SampledBlock(
        images, lambda: ImageBlock(copied(), classes, sampled.nfe, sampled.nfe_guide), seconds
    )


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _to_host(tensor: Tensor) -> Callable[[], Tensor]:
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


def sampler_options(spec: RunSpec, guide: Callable[..., Tensor] | None) -> dict[str, Any]:
    """The spec as options of `sample`."""
    return {
        "solver": spec.solver.name,
        "num_steps": spec.schedule.num_steps,
        "w_stiff": spec.correction.w_stiff,
        "w_con": spec.correction.w_con,
        "guide": guide,
        "guidance": spec.guidance.weight,
        "guidance_interval": spec.guidance.interval,
        "schedule": spec.schedule.name,
        "sigma_min": spec.schedule.sigma_min,
        "sigma_max": spec.schedule.sigma_max,
        "rho": spec.schedule.rho,
        "dtype": getattr(torch, spec.dtype),
        "s_churn": spec.solver.s_churn,
        "s_min": spec.solver.s_min,
        "s_max": spec.solver.s_max,
        "s_noise": spec.solver.s_noise,
    }
