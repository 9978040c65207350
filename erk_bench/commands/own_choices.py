"""Choices of a user's own: a settings file as what Hydra composes, checked before it does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erk_bench.base.addresses import is_network
from erk_bench.base.config_files import config_file, config_files, config_folder, is_own
from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.fields import to_dict
from erk_bench.commands.settings import RUN as SETTINGS
from erk_bench.commands.settings import default_choices, defaults, groups, is_known, names, read
from erk_bench.networks.flow_facts import SETTINGS as FLOW_SETTINGS
from erk_bench.runs.model_settings import OWN
from erk_bench.spec import MetricsSpec, ModelSpec, WeightsSpec

# Whose settings a user's own code begins with; of the other kinds, those of the default choice.
BASES = {"guidance": "cfg", "correction": "erk_guid"}

PARTS = ("solver", "schedule", "guidance", "correction")  # whose own code begins with other settings

OVERRIDE = "override /"  # GROUP: CHOICE, in the defaults of a track


def own_choice(group: str, file: Path) -> dict[str, Any]:
    """The settings of a group that a file of the user's own gives; what it leaves out has its default.

    Raises UserError for entries that the group does not know.
    """
    content = dict(read(file))
    if group == "track":
        return _track(file, content)
    base = _base(group, content, file)
    known = {*base, "path", *(["sigmas"] if group == "schedule" else [])}
    known = known if group in PARTS else _known(group)
    if not content.get("path"):
        _check_names(group, file, content, known)
    elif "options" in content or "sha256" in content:
        raise UserError(
            f"the {group} settings '{file}' name code (path) and have 'options' or 'sha256'; write options "
            "beside 'path', and no sha256: that of the file is taken"
        )
    return {**base, **content}


def track_choices(choice: str) -> dict[str, str]:
    """The choice of each group that a track of the user's own makes; of a shipped one, none."""
    file = config_file("track", choice)
    if not is_own(file):
        return {}
    content, found = read(file), dict[str, str]()
    entries = content.get("defaults", [])
    for entry in entries if isinstance(entries, list) else [entries]:
        pairs = list(entry.items()) if isinstance(entry, Mapping) else []
        if len(pairs) != 1 or not pairs[0][0].startswith(OVERRIDE):
            raise UserError(
                f"the track '{file}' has {entry!r} in 'defaults'; write the choice of a group as GROUP: "
                "NAME, for example model: digits"
            )
        found[pairs[0][0].removeprefix(OVERRIDE)] = pairs[0][1]
    found |= {group: content[group] for group in groups() if not isinstance(content.get(group, {}), Mapping)}
    for group, name in found.items():
        if group not in groups() or group == "track":
            raise unknown_name(
                f"group in the track '{file}'", group, [each for each in groups() if each != "track"]
            )
        if not isinstance(name, str):
            raise UserError(
                f"the track '{file}' has {group} {name!r}; name a choice ('erk-bench --help {group}'), or "
                "settings as a mapping"
            )
    return found


def _track(file: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Its settings without its choices, which `track_choices` gives."""
    run = [key for key in defaults() if key not in groups()]
    found = {
        key: value
        for key, value in content.items()
        if key != "defaults" and (key not in groups() or isinstance(value, Mapping))
    }
    for key, value in found.items():
        if key == "track" or key not in (*run, *groups()):
            raise unknown_name(f"entry of the track '{file}'", key, ["defaults", *groups(), *run])
        if key in groups():
            _check_names(
                key, file, value, {name for name in _all_names(value) if is_known(f"{key}.{name}", SETTINGS)}
            )
    return found


def _base(group: str, content: Mapping[str, Any], file: Path) -> Mapping[str, Any]:
    """What a file's settings are laid over."""
    if group == "metrics":
        fields = [item for item in dataclasses.fields(MetricsSpec) if item.default is not dataclasses.MISSING]
        nested = dataclasses.is_dataclass
        return {item.name: to_dict(item.default) if nested(item.default) else item.default for item in fields}
    if group == "model":
        if content.get("path"):
            return OWN
        guides = {"unconditional", "weaker"} & content.keys()
        needed = ["name", "weights", *(["guidance_weight"] if guides else [])]
        example = config_folder() / "model" / "digits.yaml"
        for key in needed:
            if key not in content:
                raise UserError(f"the model settings '{file}' have no '{key}'; see {example}")
        return {"guidance_weight": OWN["guidance_weight"]}
    shipped = {name: path for name, path in config_files(group).items() if not is_own(path)}
    name = content.get("name")
    if group in PARTS and (content.get("path") or (group == "schedule" and content.get("sigmas"))):
        name = BASES.get(group) or default_choices()[group]
    elif name is None:
        code = ", or FILE.py:NAME as 'path'" if group in PARTS else ""
        raise UserError(f"the {group} settings '{file}' have no 'name': one of {', '.join(shipped)}{code}")
    elif str(name) not in shipped:
        raise unknown_name(f"name in the {group} settings '{file}':", str(name), shipped)
    return read(shipped[str(name)])


def _known(group: str) -> set[str]:
    """The entries that files of a group may have, by dotted name."""
    found = {
        name
        for file in config_files(group).values()
        if not is_own(file)
        for name in names(read(file), nodes=True)
    }
    if group != "model":
        return found
    roles = {name for name in found if f"{name}.path" in found}
    files = {
        f"{role}.{item.name}" for role in (*roles, "vae_config") for item in dataclasses.fields(WeightsSpec)
    }
    files |= {f"{role}.{name}" for role in roles for name in FLOW_SETTINGS}
    return found | files | {item.name for item in dataclasses.fields(ModelSpec)}


def _all_names(content: Mapping[str, Any]) -> set[str]:
    return set(names(content, nodes=True))


def _check_names(group: str, file: Path, content: Mapping[str, Any], known: set[str]) -> None:
    for name in names(content, nodes=True):
        part = content.get(name.partition(".")[0])
        code = isinstance(part, Mapping) and is_network(str(part.get("path")))
        if "." in name and (code or name.startswith("about.")):  # its function says which options there are
            continue
        if name not in known:
            raise unknown_name(f"entry of the {group} settings '{file}':", name, sorted(known))
