"""What may be said of a file of a diffusion transformer's weights; read without torch, as settings are."""

from __future__ import annotations

FAMILY_NAMES = ("dit", "sit", "repa", "lightningdit", "jit")  # the keys of FAMILIES (see families)
KEY = "key"  # which weights of a file
# Of its network: what the file tells is compared, the rest is taken.
FACTS = (
    "num_heads", "img_resolution", "img_channels", "num_classes", "patch_size", "hidden_size", "depth",
    "in_context_start", "noise_scale", "rope",
)  # fmt: skip
SETTINGS = ("family", KEY, *FACTS)  # of a model's weights


def is_setting(key: str) -> bool:
    """Whether a dotted key is one of a model's network: model.weights.num_heads."""
    parts = key.split(".")
    return len(parts) == 3 and parts[0] == "model" and parts[2] in SETTINGS
