"""From words on the command line to specs. Hydra composes configurations here and nowhere else."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from erk_bench.base import own_code
from erk_bench.base.addresses import is_address
from erk_bench.base.assets import Assets
from erk_bench.base.config_files import config_file, config_files, config_folder, is_own, is_path
from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.fields import build, to_dict
from erk_bench.base.interpolations import check_name, check_value
from erk_bench.base.yaml_files import read_yaml
from erk_bench.commands.options import is_whole
from erk_bench.commands.own_choices import BASES, own_choice, track_choices
from erk_bench.commands.settings import OWN_CODE, Settings, check_words, defaults, groups, names, read
from erk_bench.evaluation.metrics import METRICS
from erk_bench.networks.presets import preset_files
from erk_bench.reporting.trackers.tracker import TrackerSpec
from erk_bench.runs.checks import check_names
from erk_bench.runs.model_settings import OWN, guide_settings, network_settings, with_own_code
from erk_bench.runs.plugins import facts_of
from erk_bench.sampling.corrections import CORRECTIONS
from erk_bench.sampling.guidance import GUIDANCES
from erk_bench.sampling.options import Row, defaults_of
from erk_bench.sampling.schedules import SCHEDULES, check_levels
from erk_bench.sampling.solvers import SOLVERS
from erk_bench.spec import (
    CorrectionSpec,
    GuidanceSpec,
    RunSpec,
    ScheduleSpec,
    SetSpec,
    SolverSpec,
    Spec,
)
from erk_bench.studies.grid_file import Cell, Grid, check_cells, read_grid
from erk_bench.studies.table_file import RowSpec, TableFile, check_rows, read_table

# Settings that decide what a row of a table computes; published values hold for the table's own only.
METHOD_SETTINGS = (
    "model", "solver", "schedule", "guidance", "correction", "class_label", "track", "metrics.reference",
    "metrics.real_features",
)  # fmt: skip


# The parts of an equation: their tables, and what a run holds of them.
PARTS: dict[str, tuple[Mapping[str, Row], type[Any]]] = {
    "solver": (SOLVERS, SolverSpec),
    "schedule": (SCHEDULES, ScheduleSpec),
    "guidance": (GUIDANCES, GuidanceSpec),
    "correction": (CORRECTIONS, CorrectionSpec),
}


def compose_config(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """configs/NAME.yaml with overrides, as plain values. Raises UserError suggesting the nearest name."""
    settings = Settings(file=name)
    check_words(overrides, settings)
    typed = overrides
    overrides = _with_code(_with_own_choices(overrides) if name == "run" else overrides)
    try:
        return _compose(name, overrides)
    except RecursionError as error:
        raise UserError(
            f"a value is nested too deep: {max(overrides, key=len)[:80]}...; give plain values"
        ) from error
    except yaml.YAMLError as error:
        raise UserError(f"a file in {config_folder()} is no YAML: {' '.join(str(error).split())}") from error
    except (HydraException, OmegaConfBaseException) as error:
        chosen = [override for override in overrides if override.partition("=")[0] in groups()]
        known = [*groups(), *names(_compose(name, chosen if name == "run" else []), nodes=True)]
        for override in overrides:
            key = override.partition("=")[0]
            if key not in known:  # another choice has it
                group = f"{key.partition('.')[0]}."
                near = [name for name in known if name.startswith(group)]
                raise unknown_name("setting", key, near or known) from error
        raise UserError(
            f"cannot read the settings {' '.join(typed)} ({str(error).splitlines()[0]}); give one value "
            "a setting, and put quotes around special characters: model.name=\"'x,y'\""
        ) from error


def _with_own_choices(overrides: Sequence[str]) -> list[str]:
    """The overrides, a file of the user's own under the name by which Hydra now knows it."""
    found = []
    for override in overrides:
        group, _, choice = override.partition("=")
        code = group in OWN_CODE and is_address(choice)
        file = config_file(group, choice) if group in groups() and not code else None
        found.append(f"{group}={_registered(group, file)}" if file and is_own(file) else override)
    return found


def _registered(group: str, file: Path) -> str:
    """A name of the user's file in Hydra's store; it is that of its content, so that a change counts."""
    content = own_choice(group, file)
    name = f"own_{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}"
    package = "_global_" if group == "track" else None
    ConfigStore.instance().store(name, content, group=group, package=package, provider="erk-bench")
    return name


# An element of a list with an option of a user's own code, which Hydra takes between quotes only.
_WITH_OPTION = re.compile(r"(?<=[\[,])\s*([^\[\],'\"=]+=[^\[\],'\"]*)")


def _with_code(overrides: Sequence[str]) -> list[str]:
    """The overrides, KIND=FILE.py:NAME as KIND.path=FILE.py:NAME, which begins with the settings of BASES."""
    found = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "metrics.names":
            override = "metrics.names=" + _WITH_OPTION.sub(r"'\1'", value)
        short = key in OWN_CODE and is_address(value)
        found.append(f"{key}.path={value}" if short else override)
    given = {override.partition("=")[0] for override in found}
    bases = [
        f"{kind}={base}" for kind, base in BASES.items() if f"{kind}.path" in given and kind not in given
    ]
    return [*bases, *found]


def _compose(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Hydra's composition, of which the part that only depends on the chosen groups is kept."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    for override, one in zip(overrides, parsed, strict=True):
        check_name(override.partition("=")[0], override)
        if not one.is_sweep_override():
            check_value(one.value(), override)  # without the backslashes that hid it
    chosen = groups() if name == "run" else {}
    picks = tuple(
        override for override, one in zip(overrides, parsed, strict=True) if one.key_or_group in chosen
    )
    config = copy.deepcopy(_chosen(name, str(config_folder().resolve()), picks))
    # The options of a user's own code are in no config file; its function says which there are.
    given = {one.key_or_group for one in parsed}
    own = {key.removesuffix("path") for key in given if key.startswith("model.") and key.endswith(".path")}
    code = [kind for kind in OWN_CODE if f"{kind}.path" in given or config.get(kind, {}).get("path")]
    added = ("schedule.sigmas", *own, *(f"{kind}." for kind in code))
    if "model.path" in given and "model" not in given:
        OmegaConf.update(config, "model", OWN, merge=False, force_add=True)
    for one in parsed:
        if one.is_sweep_override():
            raise HydraException(f"'{one.input_line}' has several values; only 'erk-bench grid' takes them")
        if one.key_or_group not in chosen:
            key = one.key_or_group
            OmegaConf.update(config, key, one.value(), merge=True, force_add=key.startswith(added))
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


@functools.lru_cache(maxsize=64)
def _chosen(name: str, folder: str, picks: tuple[str, ...]) -> DictConfig:
    for group, _, choice in (pick.partition("=") for pick in picks):
        if choice in config_files(group):  # the user's own is checked already
            read_yaml(config_files(group)[choice], "settings")
    GlobalHydra.instance().clear()
    with initialize_config_dir(folder, version_base="1.3"):
        return compose(name, list(picks))


def run_spec(overrides: Sequence[str], *, fetch: bool = True) -> RunSpec:
    """The RunSpec that configs/run.yaml and the overrides compose to.

    Hashes of weights that no config pins are filled in: from the file, or from the lock file. fetch: get
    weights that are neither here nor in the lock file; without it their hash, and so the run's identity,
    stays open.
    """
    content = compose_config("run", [*overrides, *of_preset(overrides)])
    spec = _spec_of(content, fetch=False)
    check_names(spec)  # a typo is told before gigabytes are fetched
    return _spec_of(content, fetch=True) if fetch and spec.unknown_weights else spec


def tracker_spec(overrides: Sequence[str]) -> TrackerSpec:
    """Where progress and results are shown, as configs/tracker/ and the overrides say."""
    content = compose_config("run", [*overrides, *of_preset(overrides)])
    return build(TrackerSpec, content["tracker"], "tracker")


def _spec_of(content: Mapping[str, Any], *, fetch: bool) -> RunSpec:
    """The spec of a composed config, with the sha256 of every file of weights.

    fetch: weights whose sha256 is not known are fetched; else their sha256 stays unknown in the spec.
    """
    model, guidance = dict(content["model"]), dict(content["guidance"])
    assets = Assets.from_environment(bool(content["offline"]))
    roles = {row.role for row in GUIDANCES.values() if row.role}
    model = with_own_code(model, roles)
    guides = {role: model.pop(role, None) for role in roles}
    plain = {key: value for key, value in content.items() if key != "tracker"}
    if plain["schedule"].get("sigmas"):
        plain["schedule"], plain["solver"] = _explicit(plain["schedule"], plain["solver"])
    plain["metrics"] = _metrics(plain["metrics"])

    def hashed(weights: object, where: str) -> dict[str, Any]:
        return _with_hash(weights, where, assets, fetch)

    for kind in ("solver", "schedule", "correction"):
        plain[kind] = _part(kind, plain[kind])
    guidance = _part("guidance", guidance)
    model.pop("guidance_weight", None)  # guidance/*.yaml has read it
    model.pop("about", None)
    row = None if guidance.get("path") else GUIDANCES.get(str(guidance["name"]))
    role = row.role if row else None
    if guidance.get("path"):
        role = next((each for each in guides if guides[each]), "unconditional")
    if role and not guides[role]:
        raise UserError(
            f"model '{model['name']}' has no '{role}' network for guidance={guidance['name']}; choose "
            "guidance=none, or a model that has one (those with -guid- or -autog- in their names, or digits)"
        )
    if role and (row is None or row.active(guidance["weight"])):
        guidance |= guide_settings(guides[role], role, hashed)
    model["weights"] = network_settings(model["weights"], "model.weights", hashed)
    if model.get("vae"):
        model["vae"] = _with_hash(model["vae"], "model.vae", assets, fetch)
        folder, slash, _ = model["vae"]["path"].rpartition("/")
        beside = {"path": f"{folder}{slash}config.json"}
        model["vae_config"] = _with_hash(model.get("vae_config") or beside, "model.vae_config", assets, fetch)
    return build(RunSpec, {**plain, "model": model, "guidance": guidance})


def _like(value: object, default: object) -> object:
    """Whole numbers given for a float option are floats."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(str(value)) if whole and isinstance(default, float) else value


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
    part["options"] = [[key, value] for key, value in sorted(given.items()) if value != defaults.get(key)]
    return part


def _metrics(content: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of metrics, each metric by its one name: fid, which fd@inception is as well."""
    names = content.get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return dict(content)
    return {**content, "names": list(dict.fromkeys(METRICS[name].name for name in names))}


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
    """Noise levels as a list, or as the path of a file with one: numbers between spaces, commas or lines."""
    texts = given if isinstance(given, list) else None
    if isinstance(given, str):
        file = Path(given).expanduser()
        if not file.is_file():
            raise UserError(
                f"schedule.sigmas is '{given}'; expected levels as [80,10,1,0.1], or a text file of them"
            )
        texts = file.read_text(errors="replace").replace(",", " ").strip("[] \n").split()
    try:
        numbers = [float(str(text)) for text in texts or [given]]
    except ValueError as error:
        raise UserError(
            f"schedule.sigmas is {given!r}, which holds no number: {error}; expected falling noise levels, "
            "for example [80,10,1,0.1]"
        ) from error
    return numbers


def of_preset(overrides: Sequence[str]) -> list[str]:
    """What belongs to the chosen model (track, guidance), the user's own track (its choices) and the solver
    (schedule), where the user chose none."""
    given = {key: value for key, _, value in (override.partition("=") for override in overrides)}
    found = list[str]()
    own_track = track_choices(given["track"]) if "track" in given else {}
    about = _about({**own_track, **given}.get("model", ""))
    if "track" in about and "track" not in given:
        found.append(f"track={about['track']}")
        own_track = track_choices(str(about["track"]))
    chosen = {group: choice for group, choice in own_track.items() if group not in given}
    if "guidance" in about and "guidance" not in {**chosen, **given}:
        chosen["guidance"] = str(about["guidance"])
    found += [f"{group}={choice}" for group, choice in chosen.items()]
    given |= chosen
    solver = SOLVERS.get(_solver_name(given.get("solver", "")))
    if solver and "schedule" not in given and solver.schedule != "polynomial":
        found.append(f"schedule={solver.schedule}")
        if solver.rho != SCHEDULES[solver.schedule].rho and "schedule.rho" not in given:
            found.append(f"schedule.rho={solver.rho}")
    return found


def _solver_name(choice: str) -> str:
    """The solver that a choice names, also in a file of the user's own; "" for code of the user's own."""
    if is_address(choice):
        return ""
    file = config_file("solver", choice) if is_path(choice) else config_files("solver").get(choice)
    return str(read(file).get("name", "")) if file and not read(file).get("path") else ""


def _about(model: str) -> Mapping[str, Any]:
    """What a model preset says of itself."""
    file = config_file("model", model) if is_path(model) else preset_files().get(model)
    about = (read(file).get("about") or {}) if file else {}
    if not isinstance(about, Mapping):
        raise UserError(f"the model preset '{file}' has about {about!r}, not a mapping of names to values")
    return about


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


def table_file(name: str) -> TableFile:
    """configs/table/NAME.yaml, or the user's own file.

    name: NAME, TRACK/NAME for one of that track (NAME.yaml or TRACK-NAME.yaml), or a path ending in .yaml.
    """
    track, slash, plain = name.partition("/")
    if slash and not is_path(name):
        stems = [stem for stem in config_files("table") if f"track={track}" in table_file(stem).base]
        of_track = {stem.removeprefix(f"{track}-"): stem for stem in stems}
        if plain not in of_track:
            raise unknown_name(f"table of track '{track}'", plain, of_track)
        name = of_track[plain]
    file = config_file("table", name)
    return read_table(file) if is_own(file) else read_table(file, config_folder().parent)


def grid_file(name: str) -> Grid:
    """configs/grid/NAME.yaml, or the user's own file, by a path ending in .yaml."""
    return read_grid(config_file("grid", name))


def grid_cells(grid: Grid, overrides: Sequence[str], *, fetch: bool = True) -> tuple[Grid, list[Cell]]:
    """The grid under the user's settings, and its cells.

    A setting of an axis replaces its values; one with several values (KEY=A,B) becomes an axis.
    """
    axes, rest = dict[str, list[str]](), list[str]()
    for override in overrides:
        key, equals, value = override.partition("=")
        values = _several(override) if equals and key == key.lstrip("+~-") else None
        if values is not None or key in grid.axes:
            axes[key] = [value] if values is None else values
        else:
            rest.append(override)
    grid = grid.with_axes(axes)
    known = [*groups(), *names(defaults())]
    for key in grid.axes:
        if key not in known and key.partition(".")[0] not in groups():
            raise unknown_name(f"axis of grid '{grid.name}'", key, known)
    if "seeds" in grid.axes:
        raise UserError("seeds cannot be an axis: the cells of a grid are compared on the same seeds")
    cells = []
    for place in grid.places():
        settings = [f"{key}={value}" for key, value in place.items()]
        cells.append(Cell(place, run_spec([*grid.base, *settings, *rest], fetch=fetch)))
    check_cells(grid, cells)
    return grid, cells


def _several(override: str) -> list[str] | None:
    """The values of KEY=A,B, in Hydra's grammar of sweeps; None for a single value."""
    try:
        parsed = OverridesParser.create().parse_override(override)
        return list(parsed.sweep_string_iterator()) if parsed.is_sweep_override() else None
    except HydraException:
        return None  # composing it will say what is wrong


def _row_numbers(text: str, count: int) -> list[int]:
    """'0-3,7' as numbers below `count`; all of them for an empty text."""
    numbers: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if not (is_whole(first) and is_whole(last or first) and int(first) <= int(last or first) < count):
            raise UserError(f"rows is '{text}'; expected numbers from 0 to {count - 1}, for example 0-3,7")
        numbers += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(numbers)) or list(range(count))


def table_runs(
    table: TableFile, overrides: Sequence[str], rows: str = "", *, fetch: bool = True
) -> tuple[list[RowSpec], list[RunSpec]]:
    """The chosen rows of a table that are sampled, and their specs under the user's overrides.

    A row loses its published values where the overrides change what it computes. Raises UserError where every
    row is a set of images.
    """
    chosen = [row for row in _chosen_rows(table, rows) if not row.images]
    if not chosen:
        raise UserError(
            f"the rows of the table '{table.name}' are sets of images: nothing is sampled; show them with "
            f"'erk-bench table table={table.name}'"
        )
    specs = [run_spec([*table.base, *row.set, *overrides], fetch=fetch) for row in chosen]
    check_rows(table, specs)
    return _overridden(chosen, overrides), specs


def table_specs(
    table: TableFile,
    overrides: Sequence[str],
    rows: str,
    of_set: Callable[[RowSpec, RunSpec], SetSpec],
    *,
    fetch: bool = True,
) -> tuple[list[RowSpec], list[Spec]]:
    """The chosen rows of a table and their specs under the user's overrides, as `table_runs`.

    of_set: the spec of a row of images, which is measured as the given run is.
    """
    chosen, specs = _chosen_rows(table, rows), list[Spec]()
    for row in chosen:
        spec = run_spec([*table.base, *row.set, *overrides], fetch=fetch and not row.images)
        specs.append(of_set(row, spec) if row.images else spec)
    check_rows(table, specs)
    return _overridden(chosen, overrides), specs


def _chosen_rows(table: TableFile, rows: str) -> list[RowSpec]:
    return [table.rows[number] for number in _row_numbers(rows, len(table.rows))]


def _overridden(rows: list[RowSpec], overrides: Sequence[str]) -> list[RowSpec]:
    """The rows without their published values, where the overrides change what they compute."""
    keys = [override.partition("=")[0] for override in overrides]
    if any(key in METHOD_SETTINGS or key.split(".")[0] in METHOD_SETTINGS for key in keys):
        return [row.overridden() for row in rows]
    return rows


def settings_text(spec: Spec) -> str:
    """All settings of a run as YAML, after its run_id; null where weights were never here."""
    known = isinstance(spec, SetSpec) or not spec.unknown_weights
    run_id = spec.run_id if known else None
    text: str = yaml.safe_dump({"run_id": run_id, **to_dict(spec)}, sort_keys=False, width=110)
    return text
