"""What a worker computes: its device, its networks, and the images of one block of seeds."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.networks.checkpoint import build_denoiser, read_checkpoint
from erk_bench.networks.decoders import BY_CHANNELS, DECODERS, Decode, Decoder, by_channels
from erk_bench.networks.denoiser import Denoiser
from erk_bench.networks.own_decoder import own_decoder
from erk_bench.networks.own_network import load_own
from erk_bench.networks.sizes import Architecture, architecture
from erk_bench.runs.blocks import Worker
from erk_bench.spec import ModelSpec, NetworkSpec, RunSpec, WeightsSpec


def assets_of(spec: RunSpec) -> Assets:
    """The cache as the environment and the spec have it."""
    return Assets.from_environment(spec.offline)


@dataclass(frozen=True)
class Place:
    """Where one process of a launch computes: its files, its device, and which of the workers it is."""

    assets: Assets
    device: torch.device
    worker: Worker

    @classmethod
    def of(cls, spec: RunSpec, worker: Worker | None = None) -> Place:
        """Look up the files and set up the device: the worker's own GPU if the spec allows one, else the CPU.

        worker: the only one, if not given.
        """
        worker = worker or Worker()
        return cls(assets_of(spec), set_up_device(spec.device, worker.local_rank), worker)


def set_up_device(choice: str, local_rank: int) -> torch.device:
    """Set up the device of `choice` (auto, cpu or cuda) for the whole process, and return it.

    A CPU computes with one thread, a GPU without TF32, so that every worker rounds in the same way.
    """
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


def network_architecture(weights: WeightsSpec, assets: Assets) -> Architecture:
    """What a network is: as its file says where that is here, else of its published size.

    Raises UserError where neither is known.
    """
    if assets.is_here(weights.path):
        return _architecture_of(assets.locate(weights.path))
    if weights.architecture is None:
        raise UserError(
            f"'{weights.path}' is not here and its architecture is not given; run 'erk-bench fetch' first"
        )
    return architecture(weights.architecture)


@functools.lru_cache(maxsize=16)
def _architecture_of(path: Path) -> Architecture:
    return read_checkpoint(path).architecture


class Shape(NamedTuple):
    """Of a network: channels and side of its states, and how many classes it knows."""

    channels: int
    resolution: int
    num_classes: int


def shape_of(network: Denoiser | Architecture) -> Shape:
    """The shape of a network, or of an architecture."""
    return Shape(network.img_channels, network.img_resolution, network.num_classes)


def network_shape(weights: NetworkSpec, assets: Assets) -> Shape:
    """The shape of a network that need not be loaded; only code of a user's own is run, on the CPU."""
    if weights.own_code:
        return shape_of(network(weights, torch.device("cpu"), "float32", assets, False))
    return shape_of(network_architecture(weights, assets))


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
    weights: NetworkSpec, device: torch.device, network_dtype: str, assets: Assets, compiled: bool = False
) -> Denoiser:
    """A checkpoint's or user's network, kept for the next block. Raises UserError if its hash is another."""
    if weights.own_code:
        file = None if weights.checkpoint is None else checked_file(weights.checkpoint, assets)
        options = dict(weights.options)
        return load_own(weights.path, weights.sha256, device, checkpoint=file, options=options)
    path = checked_file(weights, assets)
    net = build_denoiser(read_checkpoint(path), device, getattr(torch, network_dtype))
    if compiled:
        net.compile(dynamic=False)  # blocks are always whole, so shapes never change
    return net


@functools.lru_cache(maxsize=4)
def decoder_row(model: ModelSpec, shape: Shape, device: torch.device) -> Decoder:
    """The row of the model's decoder, for states of this shape."""
    if model.decoder_path is not None:
        return own_decoder(model.decoder_path, model.decoder_sha256, shape[:2], device)
    return by_channels(shape.channels) if model.decoder == BY_CHANNELS else DECODERS[model.decoder]


@functools.lru_cache(maxsize=2)
def decoder(model: ModelSpec, shape: Shape, device: torch.device, assets: Assets) -> Decode:
    """The model's way from final state to uint8 images, kept for the next block."""
    row = decoder_row(model, shape, device)
    if row.decode is not None:
        return row.decode
    assert row.load is not None
    if model.vae is None or model.vae_config is None:
        raise UserError(
            f"decoder '{model.decoder}' needs weights; set model.vae.path=FILE (with its config.json beside)"
        )
    return row.load(checked_file(model.vae, assets), checked_file(model.vae_config, assets), device)
