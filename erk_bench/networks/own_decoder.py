"""A decoder of a user's own: `decode(x)` gives uint8 images [B, C, H, W]. See docs/plugins.md."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from erk_bench.base.declared import attributes, declared
from erk_bench.base.errors import UserError
from erk_bench.base.own_code import check_signature, checked, described, load, place_of
from erk_bench.networks.decoders import Decode, Decoder

SETTING = "model.decoder"
ARGUMENTS = ("x",)
FACTS = ("channels", "factor", "image_channels")  # what a file may say, as decode.factor = 8
EXPECTED = "uint8 images [B, C, H, W], C = 1 or 3, H = W"


def check_declared(address: str) -> None:
    """Refuse an address that leads to no decoder, from the text of the file. Raises UserError."""
    place = place_of(address, SETTING)
    declared(place.file, place.name, "decoder", ARGUMENTS)
    _facts(address)


def _facts(address: str) -> dict[str, int]:
    place = place_of(address, SETTING)
    facts: dict[str, Any] = attributes(place.file, place.name)
    for name in FACTS:
        value = facts.get(name, 1)
        if type(value) is not int or value < 1:
            raise UserError(f"{place.name}.{name} in '{place.file}' is {value!r}; expected a whole number")
    return {name: facts[name] for name in FACTS if name in facts}


def _problem(made: object, arguments: tuple[Any, ...]) -> str:
    x = arguments[0]
    good = (
        isinstance(made, Tensor)
        and made.dtype == torch.uint8
        and made.ndim == 4
        and len(made) == len(x)
        and made.shape[1] in (1, 3)
        and made.shape[2] == made.shape[3]
    )
    return "" if good else f"{described(made)} for states {list(x.shape)}"


def own_decoder(address: str, sha256: str, shape: tuple[int, int], device: torch.device) -> Decoder:
    """The row of FILE.py:NAME, a function or a Decoder, for states of this shape (channels, side).

    What the file does not say is found by decoding one state of zeros.
    """
    place = place_of(address, SETTING)
    function = load(address, sha256, SETTING)
    if isinstance(function, Decoder):
        return function
    if not callable(function):
        raise UserError(
            f"{SETTING} names '{address}', which is {type(function).__name__}; expected a function (x) or a "
            "Decoder of erk_bench.networks.decoders"
        )
    check_signature("decoder", function, place, ARGUMENTS)
    decode: Decode = checked(function, place, EXPECTED, _problem)
    facts = {"channels": shape[0], **_facts(address)}
    if facts["channels"] == shape[0] and not {"factor", "image_channels"} <= set(facts):
        channels, side = shape
        with torch.inference_mode():
            _, image_channels, image_side, _ = decode(
                torch.zeros(1, channels, side, side, device=device)
            ).shape
        if image_side % side:
            raise UserError(
                f"{place.name} in '{place.file}' makes images of {image_side} pixels a side of states of "
                f"{side}; expected a multiple"
            )
        facts = {"factor": image_side // side, "image_channels": image_channels, **facts}
    factor, image_channels = facts.get("factor", 1), facts.get("image_channels", 3)

    def problem(made: object, arguments: tuple[Any, ...]) -> str:
        wanted = (len(arguments[0]), image_channels, *(factor * side for side in arguments[0].shape[2:]))
        same = isinstance(made, Tensor) and tuple(made.shape) == wanted
        return _problem(made, arguments) or ("" if same else f"{described(made)}, not {list(wanted)}")

    return Decoder(
        facts["channels"], factor, image_channels, decode=checked(function, place, EXPECTED, problem)
    )
