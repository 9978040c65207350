"""A feature network of a user's own: `load(device)` or `load(checkpoint, device)` gives `extract(images)`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erk_bench.base.declared import attributes, declared
from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.own_code import (
    CodePlace,
    check_signature,
    checked,
    code_sha256,
    described,
    load,
    place_of,
    short_name,
    split_options,
)
from erk_bench.evaluation.extract import Detector, Extract

CHECKPOINT = "checkpoint"  # the option that is a file; its content is part of the key
SETTING = "the detector"
EXPECTED = 'float features [B, D] of the B images, or a dict of "features" [B, D] and "logits" [B, K]'

# What a user's file may say of its detector, as load.NAME = VALUE; it is read, not run.
FACTS: dict[str, tuple[type, ...]] = {
    "title": (str,), "dim": (int,), "num_logits": (int,), "channels": (tuple, list), "resolution": (int,),
}  # fmt: skip


def own_name(name: str) -> str:
    """File (or module), function and options: how references and folders call a detector."""
    address, options = split_options(name)
    parts = [short_name(address), *(f"{key}{_brief(value)}" for key, value in sorted(options.items()))]
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "_", part) for part in parts)


def _brief(value: object) -> str:
    return Path(value).stem if isinstance(value, str) else str(value)


def _arguments(options: Mapping[str, object]) -> tuple[str, tuple[str, ...]]:
    """What errors call the kind, and the arguments that it takes."""
    if CHECKPOINT in options:
        return "detector", (CHECKPOINT, "device")
    return f"detector without :{CHECKPOINT}=FILE", ("device",)


def own_detector(name: str) -> Detector:
    """The row of FILE.py:NAME[:option=value], as far as the text of the file tells. Raises UserError."""
    address, options = split_options(name)
    place = place_of(address, SETTING)
    known = declared(place.file, place.name, *_arguments(options)).options
    check_options(place, options, known, (CHECKPOINT,))
    facts = attributes(place.file, place.name)
    for fact, value in facts.items():
        if fact in FACTS and type(value) not in FACTS[fact]:
            wanted = " or ".join(kind.__name__ for kind in FACTS[fact])
            raise UserError(f"{place.name}.{fact} in '{place.file}' is {value!r}; expected {wanted}")
    channels: Any = facts.get("channels", (1, 3))
    dim: Any = facts.get("dim")
    num_logits: Any = facts.get("num_logits", 0)
    resolution: Any = facts.get("resolution")
    title = str(facts.get("title", own_name(name)))
    weights = options.get(CHECKPOINT)
    return Detector(
        title,
        None if weights is None else str(weights),
        address,
        dim,
        num_logits,
        tuple(channels),
        resolution,
    )


def check_options(
    place: CodePlace,
    options: Mapping[str, object],
    known: Mapping[str, object] | None,
    more: tuple[str, ...] = (),
) -> None:
    """Refuse an option that a user's function does not have; None: only running the file would tell."""
    for key in options:
        if known is not None and key not in known and key not in more:
            raise unknown_name(f"option of {place.name} in '{place.file}'", key, [*known, *more])


def own_key(name: str, weights: str | None) -> str:
    """Name and hash: of the file alone, or of all that decides where there is more. weights: their sha256."""
    address, options = split_options(name)
    digest = code_sha256(address, SETTING)
    if options:
        rest = {key: value for key, value in options.items() if key != CHECKPOINT}
        digest = hashlib.sha256(json.dumps([digest, weights, rest], sort_keys=True).encode()).hexdigest()
    return f"{own_name(name)}-{digest[:8]}"


def load_own(name: str, weights: Path | None, device: torch.device | str) -> Extract:
    """The detector, imported and loaded; what it gives is checked. Raises UserError."""
    address, options = split_options(name)
    place = place_of(address, SETTING)
    function = load(address, code_sha256(address, SETTING), SETTING)
    if not callable(function):
        raise UserError(
            f"{SETTING} names '{address}', which is {type(function).__name__}; expected a function "
            "load(device)"
        )
    check_signature(_arguments(options)[0], function, place, _arguments(options)[1])
    rest = {key: value for key, value in options.items() if key != CHECKPOINT}
    load_it = checked(
        function,
        place,
        "a function extract(images)",
        lambda made, _: "" if callable(made) else described(made),
    )
    made = load_it(*(() if weights is None else (weights,)), torch.device(device), **rest)
    extract = checked(made, CodePlace(f"what {place.name} gives", place.file), EXPECTED, _problem)

    @torch.inference_mode()
    def features_of(images: Tensor) -> dict[str, Tensor]:
        found = extract(images)
        tensors = found if isinstance(found, Mapping) else {"features": found}
        return {key: value.to("cpu", torch.float32) for key, value in tensors.items()}

    return features_of


def _problem(made: object, arguments: tuple[Any, ...]) -> str:
    """What is wrong with what an extractor returned, or ""."""
    count = len(arguments[0])
    found = made if isinstance(made, Mapping) else {"features": made}
    if "features" not in found or not set(found) <= {"features", "logits"}:
        return f"a dict of {', '.join(map(repr, found)) or 'nothing'}"
    for name, value in found.items():
        of = f"{name} that are " if isinstance(made, Mapping) else ""
        if not isinstance(value, Tensor) or value.ndim != 2 or len(value) != count or value.shape[1] < 1:
            return f"{of}{described(value)} for {count} images"
        if not value.is_floating_point():
            return f"{of}{described(value)}, no floats"
        if not value.isfinite().all():
            return f"{of}not finite"
    return ""
