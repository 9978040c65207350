"""The raw network of EDM2: a magnitude-preserving U-Net.

Source: Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models"
(arXiv 2312.02696), configuration G of Table 1.
Module and parameter names are those of published state dicts, so that weights load by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from erk_bench.base.transfers import number_on
from erk_bench.networks.attention import Attention, by_products, fused
from erk_bench.networks.denoiser import RawNetwork, c_noise
from erk_bench.networks.edm2_layers import (
    MPConv,
    MPFourier,
    filter_kernel,
    mp_cat,
    mp_silu,
    mp_sum,
    normalize,
    resample,
)


class BlockOptions(NamedTuple):
    """What all blocks of one network share."""

    dropout: float = 0.0
    res_balance: float = 0.3
    attn_balance: float = 0.3
    clip_act: float | None = 256
    channels_per_head: int = 64
    resample_filter: tuple[float, ...] = (1, 1)


def head_count(channels: int, channels_per_head: int) -> int:
    """How many heads attention over `channels` has: none below channels_per_head, else of equal width."""
    if channels_per_head < 1:
        raise ValueError(f"channels_per_head is {channels_per_head}; it must be at least 1")
    heads = channels // channels_per_head
    if heads and channels % heads:
        raise ValueError(
            f"attention over {channels} channels cannot be split into {heads} equal heads; choose another "
            f"channels_per_head than {channels_per_head}"
        )
    return heads


class MPBlock(nn.Module):
    """One encoder or decoder block: resampling, residual branch, optional self-attention."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        flavor: str,
        resample_mode: str = "keep",
        attention: bool = False,
        options: BlockOptions,
    ) -> None:
        super().__init__()
        self.flavor = flavor
        self.resample_mode = resample_mode
        self.options = options
        self.attention: Attention = fused
        self.filter: Tensor | None
        self.register_buffer("filter", None, persistent=False)  # made once, by fold
        # Published blocks narrower than one head silently go without attention.
        self.num_heads = head_count(out_channels, options.channels_per_head) if attention else 0
        residual_in = out_channels if flavor == "enc" else in_channels
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.conv_res0 = MPConv(residual_in, out_channels, (3, 3))
        self.emb_linear = MPConv(emb_channels, out_channels, ())
        self.conv_res1 = MPConv(out_channels, out_channels, (3, 3))
        needs_skip = in_channels != out_channels
        self.conv_skip = MPConv(in_channels, out_channels, (1, 1)) if needs_skip else None
        self.attn_qkv = MPConv(out_channels, out_channels * 3, (1, 1)) if self.num_heads else None
        self.attn_proj = MPConv(out_channels, out_channels, (1, 1)) if self.num_heads else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        options = self.options
        if self.resample_mode != "keep":
            kernel = filter_kernel(options.resample_filter) if self.filter is None else self.filter
            x = resample(x, kernel, self.resample_mode)
        if self.flavor == "enc":
            if self.conv_skip is not None:
                x = self.conv_skip(x)
            x = normalize(x, dim=1)
        y = self.conv_res0(mp_silu(x))
        scale = self.emb_linear(emb, gain=self.emb_gain) + 1
        y = mp_silu(y * scale[:, :, None, None].to(y.dtype))
        if self.training and options.dropout:
            y = F.dropout(y, p=options.dropout)
        y = self.conv_res1(y)
        if self.flavor == "dec" and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, y, options.res_balance)
        if self.num_heads:
            x = mp_sum(x, self.attend(x), options.attn_balance)
        if options.clip_act is not None:
            x = x.clip(-options.clip_act, options.clip_act)
        return x

    def attend(self, x: Tensor) -> Tensor:
        """Cosine self-attention over pixels; q, k and v interleave inside each head's channels."""
        assert self.attn_qkv is not None and self.attn_proj is not None
        batch, channels, height, width = x.shape
        qkv = self.attn_qkv(x).reshape(batch, self.num_heads, -1, 3, height * width)
        # [3, B, heads, HW, C_head], contiguous: the fused kernels take nothing else.
        q, k, v = normalize(qkv, dim=2).permute(3, 0, 1, 4, 2).contiguous().unbind(0)
        y = self.attention(q, k, v)
        return self.attn_proj(y.transpose(2, 3).reshape(batch, channels, height, width))


class UNet(nn.Module):
    """EDM2's U-Net (figure 21)."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_noise: int | None = None,
        channel_mult_emb: int | None = None,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (16, 8),
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
        options: BlockOptions | None = None,
    ) -> None:
        super().__init__()
        options = BlockOptions() if options is None else options
        widths = [model_channels * mult for mult in channel_mult]
        noise_width = model_channels * (channel_mult_noise or channel_mult[0])
        emb_width = model_channels * channel_mult_emb if channel_mult_emb else max(widths)
        self.label_balance = label_balance
        self.concat_balance = concat_balance
        self.out_gain = nn.Parameter(torch.zeros([]))
        self.emb_fourier = MPFourier(noise_width)
        self.emb_noise = MPConv(noise_width, emb_width, ())
        self.emb_label = MPConv(label_dim, emb_width, ()) if label_dim else None

        def block(in_width: int, out_width: int, flavor: str, **kwargs: object) -> MPBlock:
            return MPBlock(in_width, out_width, emb_width, flavor=flavor, options=options, **kwargs)  # type: ignore[arg-type]  # kwargs are MPBlock's own

        # Encoder, from full resolution down. The extra input channel is the constant one.
        self.enc = nn.ModuleDict()
        skip_widths: list[int] = []
        width = img_channels + 1
        for level, level_width in enumerate(widths):
            res = img_resolution >> level
            if level == 0:
                self.enc[f"{res}x{res}_conv"] = MPConv(width, level_width, (3, 3))
                width = level_width
            else:
                self.enc[f"{res}x{res}_down"] = block(width, width, "enc", resample_mode="down")
            skip_widths.append(width)
            for index in range(num_blocks):
                attention = res in attn_resolutions
                name = f"{res}x{res}_block{index}"
                self.enc[name] = block(width, level_width, "enc", attention=attention)
                width = level_width
                skip_widths.append(width)

        # Decoder, from the lowest resolution up.
        self.dec = nn.ModuleDict()
        for level, level_width in reversed(list(enumerate(widths))):
            res = img_resolution >> level
            if level == len(widths) - 1:
                self.dec[f"{res}x{res}_in0"] = block(width, width, "dec", attention=True)
                self.dec[f"{res}x{res}_in1"] = block(width, width, "dec")
            else:
                self.dec[f"{res}x{res}_up"] = block(width, width, "dec", resample_mode="up")
            for index in range(num_blocks + 1):
                attention = res in attn_resolutions
                name = f"{res}x{res}_block{index}"
                joined = width + skip_widths.pop()
                self.dec[name] = block(joined, level_width, "dec", attention=attention)
                width = level_width
        self.out_conv = MPConv(width, img_channels, (3, 3))

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        emb = self.emb_noise(self.emb_fourier(c_noise))
        if self.emb_label is not None and labels is not None:
            label_emb = self.emb_label(labels * math.sqrt(labels.shape[1]))
            emb = mp_sum(emb, label_emb, self.label_balance)
        emb = mp_silu(emb)

        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        skips = []
        for module in self.enc.values():
            x = module(x) if isinstance(module, MPConv) else module(x, emb)
            skips.append(x)
        for name, module in self.dec.items():
            if "block" in name:
                x = mp_cat(x, skips.pop(), self.concat_balance)
            x = module(x, emb)
        return self.out_conv(x, gain=self.out_gain)


class EDM2Network(RawNetwork):
    """What a checkpoint of EDM2 holds: its U-Net, and the learned variance of its training loss."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int,
        use_fp16: bool = True,
        sigma_data: float = 0.5,
        logvar_channels: int = 128,
        *,
        dropout: float = 0.0,
        res_balance: float = 0.3,
        attn_balance: float = 0.3,
        clip_act: float | None = 256,
        channels_per_head: int = 64,
        resample_filter: Sequence[float] = (1, 1),
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_noise: int | None = None,
        channel_mult_emb: int | None = None,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (16, 8),
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
    ) -> None:
        super().__init__(img_resolution, img_channels, label_dim, use_fp16, sigma_data)
        taps = tuple(resample_filter)
        self.unet = UNet(
            img_resolution,
            img_channels,
            label_dim,
            model_channels=model_channels,
            channel_mult=channel_mult,
            channel_mult_noise=channel_mult_noise,
            channel_mult_emb=channel_mult_emb,
            num_blocks=num_blocks,
            attn_resolutions=attn_resolutions,
            label_balance=label_balance,
            concat_balance=concat_balance,
            options=BlockOptions(dropout, res_balance, attn_balance, clip_act, channels_per_head, taps),
        )
        self.logvar_fourier = MPFourier(logvar_channels)
        self.logvar_linear = MPConv(logvar_channels, 1, ())

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None, **options: Tensor | None) -> Tensor:
        out: Tensor = self.unet(x, c_noise, labels, **options)
        return out

    def logvar(self, sigma: Tensor | float) -> Tensor:
        """The learned log variance of the training loss at sigma, [B, 1, 1, 1]."""
        sigma = number_on(sigma, torch.float32, self.logvar_linear.weight.device)
        features = self.logvar_fourier(c_noise(sigma))
        out: Tensor = self.logvar_linear(features)
        return out.reshape(-1, 1, 1, 1)

    def fold(
        self,
        compute_dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.preserve_format,
    ) -> Self:
        """Normalise every weight once and turn to inference; in float32 outputs do not change.

        Convolutions then run in `compute_dtype`; the small embedding layers stay in float32.
        """
        self.compute_dtype = compute_dtype
        self.keep_filters()
        gains: dict[MPConv, Tensor] = {self.unet.out_conv: self.unet.out_gain}
        for module in self.modules():
            if isinstance(module, MPBlock):
                gains[module.emb_linear] = module.emb_gain
        for module in list(self.modules()):
            if isinstance(module, MPConv) and not module.folded:
                dtype = compute_dtype if module.weight.ndim == 4 else torch.float32
                module.fold(gains.get(module, 1.0), dtype, memory_format)
        return self.eval().requires_grad_(False)

    def keep_filters(self) -> None:
        """Make the filters of resampling once, beside the weights and in compute_dtype."""
        place = self.logvar_linear.weight.device
        for module in self.modules():
            if isinstance(module, MPBlock) and module.resample_mode != "keep":
                module.filter = filter_kernel(module.options.resample_filter).to(place, self.compute_dtype)

    def use_published_attention(self) -> None:
        for module in self.modules():
            if isinstance(module, MPBlock):
                module.attention = by_products

    @torch.no_grad()
    def force_normalize(self) -> None:
        """Training: put every weight row back to unit root mean square (EDM2's forced weight
        normalisation, algorithm 1)."""
        for module in self.modules():
            if isinstance(module, MPConv):
                module.weight.copy_(normalize(module.weight))
