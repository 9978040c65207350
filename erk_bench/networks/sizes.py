"""The published EDM2 sizes (arXiv 2312.02696, table 6): what a network is before its file is here."""

from __future__ import annotations

from typing import Any

from erk_bench.errors import unknown_name

CHANNELS = {"xs": 128, "s": 192, "m": 256, "l": 320, "xl": 384, "xxl": 448}


def _size(img_channels: int, size: str, label_dim: int = 1000) -> dict[str, Any]:
    return {
        "img_resolution": 64,
        "img_channels": img_channels,
        "label_dim": label_dim,
        "model_channels": CHANNELS[size],
    }


# Constructor arguments of Precond by architecture; everything else is a default.
SIZES: dict[str, dict[str, Any]] = {
    **{f"edm2-img512-{size}": _size(4, size) for size in CHANNELS},
    **{f"edm2-img512-{size}-uncond": _size(4, size, 0) for size in ("xs", "s")},
    **{f"edm2-img64-{size}": _size(3, size) for size in ("xs", "s", "m", "l", "xl")},
}


def architecture(name: str) -> dict[str, Any]:
    """The constructor arguments of a published size. Raises UserError for an unknown one."""
    if name not in SIZES:
        raise unknown_name("architecture", name, SIZES)
    return SIZES[name]
