"""Networks and decoders, read from their files once a process, and what is known of them before that."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import torch

from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.networks.checkpoint import Checkpoint, build_denoiser, read_checkpoint
from erk_bench.networks.compiled import CompiledDenoiser
from erk_bench.networks.decoders import BY_CHANNELS, DECODERS, Decode, Decoder, by_channels, scaled
from erk_bench.networks.denoiser import Denoiser
from erk_bench.networks.diffusers_files import read_diffusers
from erk_bench.networks.flow_facts import KEY
from erk_bench.networks.flow_files import known_facts
from erk_bench.networks.own_decoder import own_decoder
from erk_bench.networks.own_network import load_own
from erk_bench.networks.sizes import Architecture, architecture
from erk_bench.runs.numerics import STRICT, Numerics
from erk_bench.spec import ModelSpec, NetworkSpec, WeightsSpec


def network_architecture(weights: WeightsSpec, assets: Assets) -> Architecture:
    """What a network is: as its file says where that is here, else of its published size.

    Raises UserError where neither is known.
    """
    if assets.is_here(weights.path):
        return _read(weights, assets.locate(weights.path), assets).architecture
    if weights.architecture is None:
        raise UserError(
            f"'{weights.path}' is not here and its architecture is not given; run 'erk-bench fetch' first"
        )
    return architecture(weights.architecture)


def _read(weights: WeightsSpec, path: Path, assets: Assets) -> Checkpoint:
    """The checkpoint in the file of a network's weights, and in the settings files that belong to it."""
    if not isinstance(weights, NetworkSpec):
        return read_checkpoint(path)
    told = dict(weights.options)
    if weights.config is not None and weights.scheduler is not None:
        files = checked_file(weights.config, assets), checked_file(weights.scheduler, assets)
        return read_diffusers(path, *files, told)
    if not weights.family:
        return read_checkpoint(path)
    key = None if KEY not in told else str(told.pop(KEY))
    return read_checkpoint(
        path, weights.family, known_facts({"architecture": weights.architecture, **told}), key
    )


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
    weights: NetworkSpec,
    device: torch.device,
    network_dtype: str,
    assets: Assets,
    compiled: bool = False,
    published_attention: bool = False,
) -> Denoiser:
    """A checkpoint's or user's network, kept for the next block. Raises UserError if its hash is another."""
    if weights.own_code:
        file = None if weights.checkpoint is None else checked_file(weights.checkpoint, assets)
        options = dict(weights.options)
        return load_own(weights.path, weights.sha256, device, checkpoint=file, options=options)
    path = checked_file(weights, assets)
    net = build_denoiser(_read(weights, path, assets), device, getattr(torch, network_dtype))
    if published_attention:
        net.network.use_published_attention()
    return CompiledDenoiser(net) if compiled else net


@functools.lru_cache(maxsize=4)
def decoder_row(model: ModelSpec, shape: Shape, device: torch.device) -> Decoder:
    """The row of the model's decoder, for states of this shape."""
    if model.decoder_path is not None:
        return own_decoder(model.decoder_path, model.decoder_sha256, shape[:2], device)
    row = by_channels(shape.channels) if model.decoder == BY_CHANNELS else DECODERS[model.decoder]
    if row.missing:
        raise UserError(f"model '{model.name}' needs decoder '{model.decoder}': {row.missing}")
    for name in ("latent_mean", "latent_std"):
        count = len(getattr(model, name))
        if count not in (0, 1, row.channels):
            raise UserError(
                f"model.{name} has {count} numbers; decoder '{model.decoder}' takes {row.channels} channels: "
                "give one number for each, or one for all"
            )
    return row


@functools.lru_cache(maxsize=2)
def decoder(
    model: ModelSpec, shape: Shape, device: torch.device, assets: Assets, numerics: Numerics = STRICT
) -> Decode:
    """The model's way from final state to uint8 images, kept for the next block."""
    decode = _plain_decoder(model, shape, device, assets, numerics)
    if model.latent_mean or model.latent_std:
        return scaled(decode, model.latent_mean, model.latent_std)
    return decode


def _plain_decoder(
    model: ModelSpec, shape: Shape, device: torch.device, assets: Assets, numerics: Numerics
) -> Decode:
    row = decoder_row(model, shape, device)
    if row.decode is not None:
        return row.decode
    assert row.load is not None
    if model.vae is None or model.vae_config is None:
        raise UserError(
            f"decoder '{model.decoder}' needs weights; set model.vae.path=FILE (with its config.json beside)"
        )
    return row.load(
        checked_file(model.vae, assets),
        checked_file(model.vae_config, assets),
        device,
        numerics.vae_dtype,
        numerics.vae_batch,
    )
