"""The published EDM2 sizes (arXiv 2312.02696, table 6): what a network is before its file is here."""

from __future__ import annotations

from typing import Any

from erk_bench.errors import unknown_name

CHANNELS = {"xs": 128, "s": 192, "m": 256, "l": 320, "xl": 384, "xxl": 448}

# Constructor arguments of Precond by architecture; everything else is a default.
SIZES: dict[str, dict[str, Any]] = {
    f"edm2-{images}-{size}{kind}": {
        "img_resolution": 64,
        "img_channels": img_channels,
        "label_dim": label_dim,
        "model_channels": channels,
    }
    for images, img_channels in (("img512", 4), ("img64", 3))
    for size, channels in CHANNELS.items()
    for kind, label_dim in (("", 1000), ("-uncond", 0))
}


def architecture(name: str) -> dict[str, Any]:
    """The constructor arguments of a published size. Raises UserError for an unknown one."""
    if name not in SIZES:
        raise unknown_name("architecture", name, SIZES)
    return SIZES[name]
