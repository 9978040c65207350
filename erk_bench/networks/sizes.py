"""Published architectures: what a network is before its file is here.

Sources: EDM2 (arXiv 2312.02696, table 6), EDM (arXiv 2206.00364, table 7), DiT (arXiv 2212.09748, table 1),
LightningDiT (arXiv 2501.01423) and JiT (arXiv 2511.13720, table 9).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from erk_bench.base.errors import unknown_name


class Architecture(NamedTuple):
    """What a network is without its weights: a key of NETWORKS (see checkpoint) and constructor arguments."""

    class_name: str
    arguments: Mapping[str, Any]

    @property
    def img_channels(self) -> int:
        """Channels of the state."""
        return int(self.arguments["img_channels"])

    @property
    def img_resolution(self) -> int:
        """Side of the state."""
        return int(self.arguments["img_resolution"])

    @property
    def num_classes(self) -> int:
        """How many classes the network knows; 0: none."""
        return int(self.arguments.get("label_dim", self.arguments.get("num_classes", 0)))


CHANNELS = {"xs": 128, "s": 192, "m": 256, "l": 320, "xl": 384, "xxl": 448}


def _edm2(img_channels: int, size: str, label_dim: int = 1000) -> Architecture:
    arguments = {
        "img_resolution": 64,
        "img_channels": img_channels,
        "label_dim": label_dim,
        "model_channels": CHANNELS[size],
    }
    return Architecture("Precond", arguments)


def _song(resolution: int, mults: list[int], dropout: float, kind: str, label_dim: int = 0) -> Architecture:
    """DDPM++ ("vp") or NCSN++ ("ve")."""
    ncsnpp = kind == "ve"
    arguments = {
        "img_resolution": resolution, "img_channels": 3, "label_dim": label_dim, "model_type": "SongUNet",
        "channel_mult": mults, "augment_dim": 9, "dropout": dropout,
        "embedding_type": "fourier" if ncsnpp else "positional",
        "encoder_type": "residual" if ncsnpp else "standard",
        "channel_mult_noise": 2 if ncsnpp else 1,
        "resample_filter": [1, 3, 3, 1] if ncsnpp else [1, 1],
    }  # fmt: skip
    return Architecture("EDMPrecond", arguments)


_ADM = {"img_resolution": 64, "img_channels": 3, "label_dim": 1000, "use_fp16": True}

# hidden_size, depth, num_heads.
WIDTHS = {
    "s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "xl": (1152, 28, 16), "h": (1280, 32, 16),
    "1p0b": (1536, 24, 24), "1p6b": (1792, 28, 28),
}  # fmt: skip
JIT_START, JIT_BOTTLENECK = {"b": 4, "l": 8, "h": 10}, {"b": 128, "l": 128, "h": 256}


def _transformer(family: str, size: str, patch: int, side: int, channels: int, **more: Any) -> Architecture:
    """A diffusion transformer of ImageNet; its MLP is 4 times as wide, 8/3 times with SwiGLU."""
    width, depth, heads = WIDTHS[size]
    hidden = int(2 / 3 * (4 * width)) if more.get("swiglu") else 4 * width
    arguments = {
        "family": family, "img_resolution": side, "img_channels": channels, "num_classes": 1000,
        "patch_size": patch, "hidden_size": width, "depth": depth, "num_heads": heads, "mlp_hidden": hidden,
        **more,
    }  # fmt: skip
    return Architecture("DiffusionTransformer", arguments)


def _lightning(size: str, patch: int) -> Architecture:
    return _transformer("lightningdit", size, patch, 16, 32, rms_norm=True, swiglu=True, rope=True)


def _jit(size: str, side: int) -> Architecture:
    return _transformer(
        "jit", size, side // 16, side, 3, qk_norm="rms", rms_norm=True, swiglu=True, rope=True,
        bottleneck=JIT_BOTTLENECK[size], in_context_tokens=32, in_context_start=JIT_START[size],
        noise_scale=side / 256,
    )  # fmt: skip


_VARIANCES = {"output_factor": 2, "keep_variances": True}

# Architectures by name; arguments that are not here have their defaults.
SIZES: dict[str, Architecture] = {
    **{f"edm2-img512-{size}": _edm2(4, size) for size in CHANNELS},
    **{f"edm2-img512-{size}-uncond": _edm2(4, size, 0) for size in ("xs", "s")},
    **{f"edm2-img64-{size}": _edm2(3, size) for size in ("xs", "s", "m", "l", "xl")},
    "edm-imagenet-64x64-cond-adm": Architecture("EDMPrecond", {**_ADM, "model_type": "DhariwalUNet"}),
    **{
        f"dit-{size}-{patch}": _transformer("dit", size, patch, 32, 4, **_VARIANCES)
        for size in ("s", "b", "l", "xl")
        for patch in (2, 4, 8)
    },
    "dit-xl-2-512": _transformer("dit", "xl", 2, 64, 4, **_VARIANCES),
    **{
        f"sit-{size}-{patch}": _transformer("sit", size, patch, 32, 4, output_factor=2)
        for size in ("s", "b", "l", "xl")
        for patch in (2, 4, 8)
    },
    **{f"repa-sit-{size}-2": _transformer("repa", size, 2, 32, 4) for size in ("b", "l", "xl")},
    **{
        f"lightningdit-{size}-{patch}": _lightning(size, patch)
        for size, patches in (("b", (1, 2)), ("l", (2,)), ("xl", (1, 2)), ("1p0b", (1, 2)), ("1p6b", (1, 2)))
        for patch in patches
    },
    **{f"jit-{size}-{side // 16}": _jit(size, side) for size in ("b", "l", "h") for side in (256, 512)},
    **{
        f"edm-{name}-{kind}": _song(resolution, mults, dropout, kind, label_dim)
        for kind in ("vp", "ve")
        for name, resolution, mults, dropout, label_dim in (
            ("cifar10-32x32-uncond", 32, [2, 2, 2], 0.13, 0),
            ("cifar10-32x32-cond", 32, [2, 2, 2], 0.13, 10),
            ("ffhq-64x64-uncond", 64, [1, 2, 2, 2], 0.05, 0),
            ("afhqv2-64x64-uncond", 64, [1, 2, 2, 2], 0.25, 0),
        )
    },
}


def architecture(name: str) -> Architecture:
    """A published architecture. Raises UserError for an unknown one."""
    if name not in SIZES:
        raise unknown_name("architecture", name, SIZES)
    return SIZES[name]
