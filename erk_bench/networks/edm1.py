"""The raw networks of EDM: ADM and DDPM++ / NCSN++ U-Nets (arXiv 2206.00364, table 7).

Module and parameter names are those of published state dicts, so that weights load by name.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from erk_bench.networks.attention import by_float32_weights
from erk_bench.networks.denoiser import RawNetwork
from erk_bench.networks.edm1_layers import (
    Conv2d,
    FourierEmbedding,
    UNetBlock,
    UNetBlockOptions,
    group_norm,
    positional_embedding,
)


class DhariwalUNet(nn.Module):
    """ADM (arXiv 2105.05233), as EDM has it: F(x; c_noise, labels)."""

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.1,
        label_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        emb_channels = model_channels * channel_mult_emb
        self.model_channels = model_channels
        self.map_augment = nn.Linear(augment_dim, model_channels, bias=False) if augment_dim else None
        self.map_layer0 = nn.Linear(model_channels, emb_channels)
        self.map_layer1 = nn.Linear(emb_channels, emb_channels)
        self.map_label = nn.Linear(label_dim, emb_channels, bias=False) if label_dim else None
        options = UNetBlockOptions(emb_channels, dropout)
        widths = [model_channels * mult for mult in channel_mult]
        sizes = [img_resolution >> level for level in range(len(widths))]

        self.enc = nn.ModuleDict()
        self.enc[f"{sizes[0]}x{sizes[0]}_conv"] = Conv2d(in_channels, widths[0], 3)
        width, skips = widths[0], [widths[0]]
        for size, level_width in zip(sizes, widths, strict=True):
            if size != sizes[0]:
                self.enc[f"{size}x{size}_down"] = UNetBlock(width, width, options, "down")
                skips.append(width)
            for index in range(num_blocks):
                attention = size in attn_resolutions
                block = UNetBlock(width, level_width, options, attention=attention)
                self.enc[f"{size}x{size}_block{index}"] = block
                width = level_width
                skips.append(width)

        self.dec = nn.ModuleDict()
        for size, level_width in reversed(list(zip(sizes, widths, strict=True))):
            if size == sizes[-1]:
                self.dec[f"{size}x{size}_in0"] = UNetBlock(width, width, options, attention=True)
                self.dec[f"{size}x{size}_in1"] = UNetBlock(width, width, options)
            else:
                self.dec[f"{size}x{size}_up"] = UNetBlock(width, width, options, "up")
            for index in range(num_blocks + 1):
                attention = size in attn_resolutions
                block = UNetBlock(width + skips.pop(), level_width, options, attention=attention)
                self.dec[f"{size}x{size}_block{index}"] = block
                width = level_width
        self.out_norm = group_norm(width, 1e-5)
        self.out_conv = Conv2d(width, out_channels, 3)

    def forward(
        self, x: Tensor, c_noise: Tensor, labels: Tensor | None, augment_labels: Tensor | None = None
    ) -> Tensor:
        emb = positional_embedding(c_noise, self.model_channels, endpoint=False)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels)
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        if self.map_label is not None and labels is not None:
            emb = emb + self.map_label(labels)
        emb = F.silu(emb)
        skips = []
        for module in self.enc.values():
            x = module(x) if isinstance(module, Conv2d) else module(x, emb)
            skips.append(x)
        for name, module in self.dec.items():
            x = module(torch.cat([x, skips.pop()], dim=1) if "block" in name else x, emb)
        return self.out_conv(F.silu(self.out_norm(x)))


class SongUNet(nn.Module):
    """DDPM++ (positional, standard) and NCSN++ (fourier, residual) of arXiv 2011.13456, as EDM has them."""

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
        label_dropout: float = 0.0,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        decoder_type: str = "standard",
        resample_filter: Sequence[float] = (1, 1),
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("embedding_type", embedding_type, ("positional", "fourier")),
            ("encoder_type", encoder_type, ("standard", "residual")),
            ("decoder_type", decoder_type, ("standard",)),
        ):
            if value not in known:
                raise ValueError(f"{name} is '{value}'; published networks have: {', '.join(known)}")
        emb_channels, noise_channels = model_channels * channel_mult_emb, model_channels * channel_mult_noise
        self.noise_channels = noise_channels
        self.map_noise = FourierEmbedding(noise_channels) if embedding_type == "fourier" else None
        self.map_label = nn.Linear(label_dim, noise_channels) if label_dim else None
        self.map_augment = nn.Linear(augment_dim, noise_channels, bias=False) if augment_dim else None
        self.map_layer0 = nn.Linear(noise_channels, emb_channels)
        self.map_layer1 = nn.Linear(emb_channels, emb_channels)
        taps = tuple(resample_filter)
        options = UNetBlockOptions(
            emb_channels, dropout, channels_per_head=None, skip_scale=math.sqrt(0.5), eps=1e-6,
            resample_filter=taps, resample_proj=True, adaptive_scale=False,
        )  # fmt: skip
        widths = [model_channels * mult for mult in channel_mult]
        sizes = [img_resolution >> level for level in range(len(widths))]

        self.enc = nn.ModuleDict()
        self.enc[f"{sizes[0]}x{sizes[0]}_conv"] = Conv2d(in_channels, model_channels, 3)
        width, skips, aux_width = model_channels, [model_channels], in_channels
        for size, level_width in zip(sizes, widths, strict=True):
            if size != sizes[0]:
                self.enc[f"{size}x{size}_down"] = UNetBlock(width, width, options, "down")
                skips.append(width)
                if encoder_type == "residual":
                    aux = Conv2d(aux_width, width, 3, "down", taps, late=True)
                    self.enc[f"{size}x{size}_aux_residual"] = aux
                    aux_width = width
            for index in range(num_blocks):
                attention = size in attn_resolutions
                block = UNetBlock(width, level_width, options, attention=attention)
                self.enc[f"{size}x{size}_block{index}"] = block
                width = level_width
                skips.append(width)

        self.dec = nn.ModuleDict()
        for size, level_width in reversed(list(zip(sizes, widths, strict=True))):
            if size == sizes[-1]:
                self.dec[f"{size}x{size}_in0"] = UNetBlock(width, width, options, attention=True)
                self.dec[f"{size}x{size}_in1"] = UNetBlock(width, width, options)
            else:
                self.dec[f"{size}x{size}_up"] = UNetBlock(width, width, options, "up")
            for index in range(num_blocks + 1):
                attention = index == num_blocks and size in attn_resolutions
                block = UNetBlock(width + skips.pop(), level_width, options, attention=attention)
                self.dec[f"{size}x{size}_block{index}"] = block
                width = level_width
        self.dec[f"{sizes[0]}x{sizes[0]}_aux_norm"] = group_norm(width, 1e-6)
        self.dec[f"{sizes[0]}x{sizes[0]}_aux_conv"] = Conv2d(width, out_channels, 3)

    def forward(
        self, x: Tensor, c_noise: Tensor, labels: Tensor | None, augment_labels: Tensor | None = None
    ) -> Tensor:
        emb = self._embedding(c_noise, labels, augment_labels)
        skips: list[Tensor] = []
        aux = x
        for name, module in self.enc.items():
            if "aux_residual" in name:
                x = aux = (x + module(aux)) * math.sqrt(0.5)
                skips[-1] = x
                continue
            x = module(x) if isinstance(module, Conv2d) else module(x, emb)
            skips.append(x)
        for name, module in self.dec.items():
            if isinstance(module, UNetBlock):
                x = module(torch.cat([x, skips.pop()], dim=1) if "block" in name else x, emb)
            else:
                x = module(x) if "aux_norm" in name else module(F.silu(x))
        return x

    def _embedding(self, c_noise: Tensor, labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        if self.map_noise is not None:
            waves = self.map_noise(c_noise)
        else:
            waves = positional_embedding(c_noise, self.noise_channels, endpoint=True)
        emb = waves.roll(self.noise_channels // 2, dims=1)  # the published order is sin, cos
        if self.map_label is not None and labels is not None:
            emb = emb + self.map_label(labels * math.sqrt(labels.shape[1]))
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))


MODELS = {"DhariwalUNet": DhariwalUNet, "SongUNet": SongUNet}


class EDM1Network(RawNetwork):
    """What a checkpoint of EDM holds: one of MODELS; augment_labels [B, augment_dim] may be passed."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        sigma_min: float = 0.0,
        sigma_max: float = math.inf,
        sigma_data: float = 0.5,
        model_type: str = "DhariwalUNet",
        **model_kwargs: Any,
    ) -> None:
        super().__init__(img_resolution, img_channels, label_dim, use_fp16, sigma_data)
        if model_type not in MODELS:
            raise ValueError(f"model_type is '{model_type}'; known: {', '.join(MODELS)}")
        self.model = MODELS[model_type](
            img_resolution, img_channels, img_channels, label_dim=label_dim, **model_kwargs
        )

    @classmethod
    def argument_names(cls, init: Mapping[str, Any]) -> list[str]:
        """Those of the model too; of every model for an unknown type."""
        own = [name for name in inspect.signature(cls).parameters if name != "model_kwargs"]
        model_type = str(init.get("model_type", ""))
        models = [MODELS[model_type]] if model_type in MODELS else list(MODELS.values())
        names = [name for model in models for name in inspect.signature(model).parameters]
        return [name for name in dict.fromkeys([*own, *names]) if name not in ("in_channels", "out_channels")]

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None, **options: Tensor | None) -> Tensor:
        out: Tensor = self.model(x, c_noise, labels, **options)
        return out

    def fold(
        self,
        compute_dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.preserve_format,
    ) -> Self:
        """Turn to inference: convolutions and norms in `compute_dtype`, embeddings in float32."""
        self.compute_dtype = compute_dtype
        for module in self.modules():
            if isinstance(module, (Conv2d, nn.GroupNorm)):
                module.to(compute_dtype)
            elif isinstance(module, (nn.Linear, FourierEmbedding)):
                module.float()
        return self.eval().requires_grad_(False)

    def use_published_attention(self) -> None:
        for module in self.modules():
            if isinstance(module, UNetBlock):
                module.attention = by_float32_weights
