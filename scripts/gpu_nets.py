"""Networks of published sizes with random weights, for `gpu_check.py`; tiny ones where the scale is small."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from bench_lines import Scale
from safetensors.torch import save_file
from torch import Tensor, nn

from erk_bench.evaluation.detectors import sketch_of
from erk_bench.evaluation.dinov2 import Normalize, resize_torch
from erk_bench.networks.checkpoint import make_network
from erk_bench.networks.denoiser import EDMPreconditioned
from erk_bench.networks.sizes import Architecture, architecture
from erk_bench.networks.vae import PUBLISHED_CONFIG, Decode, load_vae
from erk_bench.runs.numerics import Numerics

SMALL_ARGUMENTS = {
    "img_resolution": 16, "img_channels": 4, "label_dim": 10, "model_channels": 16, "channel_mult": [1, 2],
    "num_blocks": 1, "attn_resolutions": [8], "channels_per_head": 16,
}  # fmt: skip
SMALL_VAE = {**PUBLISHED_CONFIG, "block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4}


def network(size: str, scale: Scale, *, published: bool = False) -> EDMPreconditioned:
    """EDM2 of a published size, float16 on a GPU, always with the same weights; a tiny one in small."""
    row = Architecture("Precond", SMALL_ARGUMENTS) if scale.small else architecture(f"edm2-img512-{size}")
    torch.manual_seed(0)
    net = EDMPreconditioned(make_network(row)).eval().requires_grad_(False)
    for name, parameter in net.named_parameters():
        if name.endswith("_gain"):  # zero in an untrained network
            parameter.fill_(0.5)
    dtype = torch.float16 if scale.device.type == "cuda" else torch.float32
    net.fold(dtype).to(scale.device).to(memory_format=torch.channels_last)
    if published:
        net.network.use_published_attention()
    return net


def decoder(scale: Scale, numerics: Numerics) -> Decode:
    """The VAE of published size with random weights, as a run loads it."""
    from diffusers import AutoencoderKL

    config = SMALL_VAE if scale.small else PUBLISHED_CONFIG
    torch.manual_seed(0)
    weights = AutoencoderKL.from_config(config).state_dict()
    weights["decoder.conv_out.bias"] = torch.full((3,), 0.5)  # mid-grey, so that few pixels are clipped
    with tempfile.TemporaryDirectory() as folder:
        text, file = Path(folder) / "config.json", Path(folder) / "vae.safetensors"
        text.write_text(json.dumps(config))
        save_file({name: value.contiguous() for name, value in weights.items()}, file)
        return load_vae(text, file, scale.device, numerics.vae_dtype, numerics.vae_batch)


def detector(name: str, device: torch.device) -> Callable[[Tensor], object]:
    """A published detector with random weights: uint8 images to features, on the device."""
    sketch = sketch_of(name)
    assert sketch is not None
    torch.manual_seed(0)
    net: nn.Module = sketch.network.to_empty(device=device)
    for tensor in [*net.parameters(), *net.buffers()]:
        if tensor.is_floating_point():
            tensor.data.normal_(0, 0.02).abs_()
    if not name.startswith("dinov2"):
        return net
    normalize = Normalize(device)
    return lambda images: net(normalize(resize_torch(images)))
