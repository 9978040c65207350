"""The settings of a model: which networks, which decoder; files and code with their hashes."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from erk_bench.base.addresses import is_address, is_diffusers
from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.own_code import code_sha256, short_name
from erk_bench.networks.decoders import BY_CHANNELS
from erk_bench.networks.diffusers_folder import Finder, Folder, Hashed
from erk_bench.networks.families import FAMILIES
from erk_bench.networks.flow_facts import FACTS, KEY
from erk_bench.networks.own_decoder import check_declared
from erk_bench.networks.own_network import CHECKPOINT, declared_options
from erk_bench.spec import ModelSpec

SAME = "same"  # in the place of an unconditional network: the main network under its null class
NO_OPTIONS = ("guidance_weight", "about")  # of a preset, beside the fields of ModelSpec
# What a model of a user's own begins with.
OWN: dict[str, Any] = {"name": None, "weights": None, "decoder": BY_CHANNELS, "guidance_weight": 1.0}


def with_own_code(model: Mapping[str, Any], roles: Collection[str], finder: Finder) -> dict[str, Any]:
    """The settings with the main network's code or folder among its weights, and the decoder's code hashed.

    roles: the names of guiding networks.
    """
    model = dict(model)
    address = model.pop("path", None)
    if address is not None:
        fields = {item.name for item in dataclasses.fields(ModelSpec)}
        given = [key for key in model if key not in (*fields, *roles, *NO_OPTIONS)]
        network = {key: model.pop(key) for key in given}
        if is_diffusers(str(address)):
            return Folder.of(str(address), finder).model(with_own_code(model, roles, finder), network)
        network = {CHECKPOINT: model.get("weights"), **network, "path": str(address)}
        model |= {"name": model.get("name") or short_name(str(address)), "weights": network}
    model.setdefault("decoder", BY_CHANNELS)
    decoder = str(model["decoder"])
    if is_address(decoder):
        check_declared(decoder)
        sha256 = code_sha256(decoder, "model.decoder")
        model |= {"decoder": short_name(decoder), "decoder_path": decoder, "decoder_sha256": sha256}
    return model


def network_settings(given: object, where: str, hashed: Hashed, finder: Finder) -> dict[str, Any]:
    """The settings of a NetworkSpec: a file of weights, a folder, or code with its options and checkpoint.

    hashed(weights, where): the settings of a file of weights with its hash.
    """
    content = {"path": given} if isinstance(given, str) else given
    if isinstance(content, Mapping) and is_diffusers(str(content.get("path"))):
        options = {key: value for key, value in content.items() if key not in ("path", "sha256")}
        return Folder.of(str(content["path"]), finder).network(options, where, hashed)
    if not isinstance(content, Mapping) or not is_address(str(content.get("path"))):
        if isinstance(content, Mapping) and content.get("family"):
            return _of_family(content, where, hashed)
        return hashed(content, where)
    address, checkpoint = str(content["path"]), content.get(CHECKPOINT)
    setting = f"{where}.path"
    options = {
        key: value
        for key, value in content.items()
        if key not in ("path", "sha256", "architecture", CHECKPOINT)
    }
    for key, value in options.items():
        if not isinstance(value, (bool, int, float, str)):
            raise UserError(f"{where}.{key} is {value!r}; expected a number, a text, true or false")
    sha256 = code_sha256(address, setting)
    own = declared_options(address, options, checkpoint, setting)
    found = {
        "path": address,
        "sha256": sha256,
        "own_code": True,
        "options": [list(one) for one in own.items()],
    }
    if checkpoint is not None:
        file = {"path": checkpoint} if isinstance(checkpoint, str) else checkpoint
        found[CHECKPOINT] = hashed(file, f"{where}.{CHECKPOINT}")
    return found


def _of_family(content: Mapping[str, Any], where: str, hashed: Hashed) -> dict[str, Any]:
    """The settings of a file of a diffusion transformer's weights; what is known of it are options."""
    if content["family"] not in FAMILIES:
        raise unknown_name(f"{where}.family", str(content["family"]), FAMILIES)
    told = {name: content[name] for name in (*FACTS, KEY) if content.get(name) is not None}
    rest = {name: value for name, value in content.items() if name not in (*FACTS, KEY, "family")}
    options = [[name, value] for name, value in sorted(told.items())]
    return {**hashed(rest, where), "family": content["family"], "options": options}


def guide_settings(given: object, role: str, hashed: Hashed, finder: Finder) -> dict[str, Any]:
    """The settings of GuidanceSpec that say which network guides."""
    if given != SAME:
        return {"guide": network_settings(given, f"model.{role}", hashed, finder)}
    if role != "unconditional":
        raise UserError(
            f"model.{role} is '{SAME}', the main network without a class; only model.unconditional may be"
        )
    return {"null_class": True}
