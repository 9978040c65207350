"""Published architectures: what a network is before its file is here.

Sources: EDM2 (arXiv 2312.02696, table 6) and EDM (arXiv 2206.00364, table 7).
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
        return int(self.arguments.get("label_dim", 0))


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

# Architectures by name; arguments that are not here have their defaults.
SIZES: dict[str, Architecture] = {
    **{f"edm2-img512-{size}": _edm2(4, size) for size in CHANNELS},
    **{f"edm2-img512-{size}-uncond": _edm2(4, size, 0) for size in ("xs", "s")},
    **{f"edm2-img64-{size}": _edm2(3, size) for size in ("xs", "s", "m", "l", "xl")},
    "edm-imagenet-64x64-cond-adm": Architecture("EDMPrecond", {**_ADM, "model_type": "DhariwalUNet"}),
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
