"""Files of a model of diffusers: its config.json, its weights, its scheduler's settings; nothing is run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.base.tensor_files import read_tensors
from erk_bench.base.untrusted import parse_json
from erk_bench.base.weight_files import read_state_dicts
from erk_bench.networks.checkpoint import Checkpoint
from erk_bench.networks.diffusers_network import MODELS, process_of
from erk_bench.networks.vae import renamed

# What may be said of a network where its settings do not tell.
FACTS = ("num_classes", "img_resolution")
# An earlier class, which diffusers itself reads as the DiT of today where its norm is this.
OLD_CLASS, OLD_NORM = "Transformer2DModel", "ada_norm_zero"
MAX_SIDE = 4096
NEXT_STEP = "give the folder that save_pretrained of diffusers wrote"


def read_diffusers(weights: Path, config: Path, scheduler: Path, facts: Mapping[str, Any]) -> Checkpoint:
    """The network of diffusers in these files. facts: of FACTS.

    Raises UserError for whatever does not fit.
    """
    init = network_facts(config, facts)
    settings = check_scheduler(scheduler)
    tensors = {f"model.{renamed(name)}": tensor for name, tensor in _tensors(weights).items()}
    return Checkpoint("DiffusersNetwork", {**init, "scheduler": json.dumps(settings)}, tensors, "")


def read_settings(path: Path) -> dict[str, Any]:
    """A settings file of diffusers. Raises UserError for what is none."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read '{path}' as JSON ({error}); {NEXT_STEP}") from error
    if not isinstance(content, dict) or not isinstance(content.get("_class_name"), str):
        raise UserError(f"'{path}' names no _class_name, so it is no settings of diffusers; {NEXT_STEP}")
    return content


def check_scheduler(path: Path) -> dict[str, Any]:
    """The settings of a scheduler. Raises UserError for one whose noise levels we do not know."""
    settings = read_settings(path)
    try:
        process_of(settings)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"cannot use '{path}': {error}") from error
    return settings


def network_facts(config: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor arguments of a DiffusersNetwork, without its scheduler."""
    settings = read_settings(config)
    name = settings["_class_name"]
    if name == OLD_CLASS and settings.get("norm_type") == OLD_NORM:
        settings["_class_name"] = name = MODELS[0]
    if name not in MODELS:
        why = "takes text" if "Condition" in name or "joint_attention_dim" in settings else "is not served"
        if settings.get("cross_attention_dim") or settings.get("caption_channels"):
            why = "takes text"
        raise UserError(
            f"'{config}' describes the class {name}, which {why}; served are {' and '.join(MODELS)}, of "
            "class numbers or of no condition"
        )
    if name == "UNet2DModel":
        rows = settings.get("num_class_embeds")
        null = False
        for key, wanted in (("class_embed_type", None), ("time_embedding_type", "positional")):
            if settings.get(key, wanted) != wanted:
                raise UserError(f"'{config}' has {key} {settings[key]!r}; served is {wanted!r}")
    else:
        rows, null = settings.get("num_embeds_ada_norm", 1000), True
    number = _whole(config, "classes", rows, 0) if rows is not None else 0
    classes = facts.get("num_classes", number)
    if classes != number and (null or classes != number - 1):
        fitting = f"{number}" if null or not number else f"{number}, or {number - 1} and one for any class"
        raise UserError(f"num_classes is {classes!r}, but the network of '{config}' has {fitting}")
    channels = _whole(config, "in_channels", settings.get("in_channels", 3 if "UNet" in name else 4), 1)
    outputs = settings.get("out_channels", 3 if "UNet" in name else None)
    if outputs not in (None, channels, 2 * channels):
        raise UserError(
            f"'{config}' has {channels} in_channels and {outputs} out_channels; expected as many, or twice "
            "as many with learned variances"
        )
    side = settings.get("sample_size", None if "UNet" in name else 32)
    side = side[0] if isinstance(side, list) and len(set(side)) == 1 else side
    if side is None and "img_resolution" not in facts:
        raise UserError(f"'{config}' does not tell the side of images; add model.img_resolution=NUMBER")
    side = _whole(config, "sample_size", facts.get("img_resolution", side), 1)
    if side > MAX_SIDE:
        raise UserError(f"'{config}' has sample_size {side}; it must be at most {MAX_SIDE}")
    if name == MODELS[0] and side != settings.get("sample_size", 32):
        raise UserError(f"img_resolution is {side}, but the network of '{config}' has another sample_size")
    return {
        "model": json.dumps(settings),
        "img_resolution": side,
        "img_channels": channels,
        "num_classes": classes,
        "null_class": null or classes == number - 1,
    }


def _whole(config: Path, name: str, value: object, least: int) -> int:
    if type(value) is not int or value < least:
        raise UserError(f"'{config}' has {name} {value!r}; expected a whole number of {least} or more")
    return value


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_tensors(path).tensors
    found = read_state_dicts(path)
    if list(found) != [""]:
        raise UserError(f"'{path}' holds no plain state dictionary; {NEXT_STEP}")
    return found[""]
