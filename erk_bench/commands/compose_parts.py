"""From a composed configuration, as plain values, to the spec of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erk_bench.base import own_code
from erk_bench.base.assets import Assets
from erk_bench.base.config_files import is_path
from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.fields import build
from erk_bench.base.own_settings import read_own
from erk_bench.evaluation.metrics import METRICS
from erk_bench.evaluation.protocols import followed
from erk_bench.networks.diffusers_folder import Finder
from erk_bench.runs.model_settings import guide_settings, network_settings, with_own_code
from erk_bench.runs.plugins import facts_of
from erk_bench.sampling.corrections import CORRECTIONS
from erk_bench.sampling.guidance import GUIDANCES
from erk_bench.sampling.options import Row, check_options, defaults_of
from erk_bench.sampling.schedules import SCHEDULES, check_levels
from erk_bench.sampling.solvers import SOLVERS
from erk_bench.spec import CorrectionSpec, GuidanceSpec, RunSpec, ScheduleSpec, SolverSpec

# The parts of an equation: their tables, and what a run holds of them.
PARTS: dict[str, tuple[Mapping[str, Row], type[Any]]] = {
    "solver": (SOLVERS, SolverSpec),
    "schedule": (SCHEDULES, ScheduleSpec),
    "guidance": (GUIDANCES, GuidanceSpec),
    "correction": (CORRECTIONS, CorrectionSpec),
}


def spec_of(content: Mapping[str, Any], *, fetch: bool) -> RunSpec:
    """The spec of a composed config, with the sha256 of every file of weights.

    fetch: weights whose sha256 is not known are fetched; else their sha256 stays unknown in the spec.
    """
    model, guidance = dict(content["model"]), dict(content["guidance"])
    assets = Assets.from_environment(bool(content["offline"]))
    roles = {row.role for row in GUIDANCES.values() if row.role}
    finder = Finder(assets, fetch)
    model = with_own_code(model, roles, finder)
    guides = {role: model.pop(role, None) for role in roles}
    plain = {key: value for key, value in content.items() if key != "tracker"}
    if plain["schedule"].get("sigmas"):
        plain["schedule"], plain["solver"] = _explicit(plain["schedule"], plain["solver"])
    plain["metrics"] = _metrics(plain["metrics"])

    def hashed(weights: object, where: str) -> dict[str, Any]:
        return _with_hash(weights, where, assets, fetch)

    role = guidance.pop("role", None)
    if role is not None and role not in roles:
        raise unknown_name("guidance.role", str(role), sorted(roles))
    if plain["solver"].get("statistics") and not plain["solver"].get("path"):
        file = {"path": str(plain["solver"]["statistics"])}
        plain["solver"] = {**plain["solver"], "statistics": hashed(file, "solver.statistics")}
    for kind in ("solver", "schedule", "correction"):
        plain[kind] = _part(kind, plain[kind])
    guidance = _part("guidance", guidance)
    model.pop("guidance_weight", None)  # guidance/*.yaml has read it
    model.pop("about", None)
    row = None if guidance.get("path") else GUIDANCES.get(str(guidance["name"]))
    role = role or (row.role if row else None)
    if guidance.get("path") and not role:
        role = next((each for each in guides if guides[each]), "unconditional")
    needed = row is None or row.needs_guide(guidance["weight"]) or not row.alone_at_one
    if role and needed and not guides[role]:
        raise UserError(
            f"model '{model['name']}' has no '{role}' network for guidance={guidance['name']}; choose "
            "guidance=none, or a model that has one (those with -guid- or -autog- in their names, or digits)"
        )
    if role and (row is None or row.needs_guide(guidance["weight"])):
        guidance |= guide_settings(guides[role], role, hashed, finder)
    model["weights"] = network_settings(model["weights"], "model.weights", hashed, finder)
    if model.get("vae"):
        model["vae"] = _with_hash(model["vae"], "model.vae", assets, fetch)
        folder, slash, _ = model["vae"]["path"].rpartition("/")
        beside = {"path": f"{folder}{slash}config.json"}
        model["vae_config"] = _with_hash(model.get("vae_config") or beside, "model.vae_config", assets, fetch)
    return build(RunSpec, {**plain, "model": model, "guidance": guidance})


def _like(value: object, default: object) -> object:
    """Whole numbers given for a float option are floats; so is .inf, which is YAML's word for it.

    Lists given for several numbers are tuples of floats.
    """
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(_like(item, 0.0) for item in value)
    meant = (isinstance(value, int) and not isinstance(value, bool)) or value == ".inf"
    return float(str(value).lstrip(".")) if meant and isinstance(default, float) else value


def _part(kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """A part's settings, its own options apart (those at their defaults left out), its code hashed."""
    table, spec = PARTS[kind]
    fields = {item.name for item in dataclasses.fields(spec)}
    part = {key: value for key, value in content.items() if key in fields}
    options = {key: value for key, value in content.items() if key not in fields}
    if part.get("path"):
        address = str(part["path"])
        sha256 = own_code.code_sha256(address, f"{kind}.path")
        part |= {"name": own_code.short_name(address), "sha256": sha256}
        # Read, not imported: who plans, fetches or checks a manifest runs nobody's code. Where the text does
        # not tell the defaults, every given option counts.
        defaults = defaults_of(facts_of(kind, address))
    else:
        row = table.get(str(part["name"]))
        defaults = defaults_of(row) if row else {}
        for key in options:
            if key not in defaults:
                raise unknown_name(f"setting of {kind} '{part['name']}'", key, [*defaults, *sorted(fields)])
    given = {key: _like(value, defaults.get(key)) for key, value in options.items()}
    if not part.get("path") and row:
        check_options(kind, str(part["name"]), row, given)
    part["options"] = [[key, value] for key, value in sorted(given.items()) if value != defaults.get(key)]
    return part


def _metrics(content: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of metrics, each metric by its one name: fid, which fd@inception is as well."""
    names, protocol = content.get("names"), content.get("protocol")
    given = {key: value for key, value in content.items() if key != "protocol"}
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return given
    if protocol in (None, ""):
        return {**given, "names": list(dict.fromkeys(METRICS[name].name for name in names))}
    found = followed(str(protocol), names, {})
    return {**given, **found.settings, "names": found.names, "protocol": str(protocol)}


def _explicit(
    schedule: Mapping[str, Any], solver: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Schedule and solver where the noise levels are given one by one; a last 0 is the last step to zero."""
    levels = _numbers(schedule["sigmas"])
    to_zero = {"denoise_to_zero": True} if levels and levels[-1] == 0 else {}
    levels = check_levels(levels[:-1] if to_zero else levels)
    made = {"name": "sigmas", "num_steps": len(levels), "sigma_min": levels[-1], "sigma_max": levels[0]}
    return {**made, "rho": SCHEDULES["polynomial"].rho, "sigmas": levels}, {**solver, **to_zero}


def _numbers(given: object) -> list[float]:
    """Noise levels as a list, or as the path of a file with one: numbers between spaces, commas or lines,
    or `sigmas` of a YAML file."""
    texts = given if isinstance(given, list) else None
    if isinstance(given, str):
        file = Path(given).expanduser()
        if not file.is_file():
            raise UserError(
                f"schedule.sigmas is '{given}'; expected levels as [80,10,1,0.1], or a text file of them"
            )
        if is_path(given):
            return _numbers(read_own(file).get("sigmas"))
        texts = file.read_text(errors="replace").replace(",", " ").strip("[] \n").split()
    try:
        numbers = [float(str(text)) for text in texts or [given]]
    except ValueError as error:
        raise UserError(
            f"schedule.sigmas is {given!r}, which holds no number: {error}; expected falling noise levels, "
            "for example [80,10,1,0.1]"
        ) from error
    return numbers


def _with_hash(weights: object, where: str, assets: Assets, fetch: bool) -> dict[str, Any]:
    """Weights without a pinned sha256 are taken as they are, and identified by their present hash."""
    if not isinstance(weights, Mapping) or not isinstance(weights.get("path"), str):
        raise UserError(f"{where} is {weights!r}; set its file: {where}.path=FILE")
    address = str(weights["path"])
    sha256 = weights.get("sha256") or assets.expected_sha256(address) or ""
    if len(str(sha256)) < 64 and not weights.get("sha256"):
        if fetch or assets.url(address) is None:
            assets.locate(address)
        sha256 = assets.sha256(address) if assets.is_here(address) else ""
    return {**weights, "sha256": sha256}
