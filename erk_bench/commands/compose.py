"""From words on the command line to specs. Hydra composes configurations here and nowhere else."""

from __future__ import annotations

import functools
import hashlib
import json
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from erk_bench.base.addresses import is_address, is_network
from erk_bench.base.config_files import config_file, config_files, config_folder, is_own, is_path
from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.fields import build, to_dict
from erk_bench.base.interpolations import check_name, check_value
from erk_bench.base.yaml_files import read_yaml
from erk_bench.commands.compose_parts import spec_of
from erk_bench.commands.own_choices import BASES, own_choice, track_choices
from erk_bench.commands.settings import OWN_CODE, Settings, check_words, groups, names, read
from erk_bench.networks.flow_facts import is_setting
from erk_bench.networks.presets import preset_files
from erk_bench.reporting.trackers.tracker import TrackerSpec
from erk_bench.runs.checks import check_names
from erk_bench.runs.model_settings import OWN
from erk_bench.runs.needs import check_packages
from erk_bench.sampling.schedules import SCHEDULES
from erk_bench.sampling.solvers import SOLVERS
from erk_bench.spec import RunSpec, SetSpec, Spec


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
        code = group in OWN_CODE and is_network(choice)
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
        short = key in OWN_CODE and is_network(value)
        found.append(f"{key}.path={value}" if short else override)
    given = {override.partition("=")[0] for override in found}
    bases = [
        f"{kind}={base}" for kind, base in BASES.items() if f"{kind}.path" in given and kind not in given
    ]
    return [*bases, *found]


def _compose(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Hydra's composition, of which the part that only depends on the chosen groups is kept."""
    parsed = [_parsed(override) for override in overrides]
    for override, one in zip(overrides, parsed, strict=True):
        check_name(override.partition("=")[0], override)
        if not one.is_sweep_override():
            check_value(one.value(), override)  # without the backslashes that hid it
    chosen = groups() if name == "run" else {}
    picks = tuple(
        override for override, one in zip(overrides, parsed, strict=True) if one.key_or_group in chosen
    )
    config: DictConfig = pickle.loads(_chosen(name, str(config_folder().resolve()), picks))
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
            new = key.startswith(added) or is_setting(key)
            OmegaConf.update(config, key, one.value(), merge=True, force_add=new)
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


@functools.lru_cache(maxsize=4096)
def _parsed(override: str) -> Override:
    """An override in Hydra's grammar, of which a table's rows repeat most; nobody changes what it returns."""
    parsed: Override = OverridesParser.create().parse_overrides([override])[0]
    return parsed


@functools.lru_cache(maxsize=512)
def _chosen(name: str, folder: str, picks: tuple[str, ...]) -> bytes:
    """Hydra's composition of the chosen groups, pickled: loading that is six times as fast as a deep copy."""
    for group, _, choice in (pick.partition("=") for pick in picks):
        if choice in config_files(group):  # the user's own is checked already
            read_yaml(config_files(group)[choice], "settings")
    GlobalHydra.instance().clear()
    # Half of the time would go into Hydra's settings of itself (launchers, loggers), which nobody reads.
    store = ConfigStore.instance()
    of_hydra = store.repo["hydra"]["config.yaml"]
    store.store("config", HydraConf(defaults=["_self_"]), group="hydra", provider="erk-bench")
    try:
        with initialize_config_dir(folder, version_base="1.3"):
            return pickle.dumps(compose(name, list(picks)))
    finally:
        store.repo["hydra"]["config.yaml"] = of_hydra


def run_spec(overrides: Sequence[str], *, fetch: bool = True) -> RunSpec:
    """The RunSpec that configs/run.yaml and the overrides compose to.

    Hashes of weights that no config pins are filled in: from the file, or from the lock file. fetch: get
    weights that are neither here nor in the lock file; without it their hash, and so the run's identity,
    stays open.
    """
    content = compose_config("run", [*overrides, *of_preset(overrides)])
    spec = spec_of(content, fetch=False)
    check_names(spec)  # a typo is told before gigabytes are fetched
    if not fetch or not spec.unknown_weights:
        return spec
    check_packages(spec, features=False)
    return spec_of(content, fetch=True)


def tracker_spec(overrides: Sequence[str]) -> TrackerSpec:
    """Where progress and results are shown, as configs/tracker/ and the overrides say."""
    content = compose_config("run", [*overrides, *of_preset(overrides)])
    return build(TrackerSpec, content["tracker"], "tracker")


def several_values(override: str) -> list[str] | None:
    """The values of KEY=A,B, in Hydra's grammar of sweeps; None for a single value."""
    try:
        parsed = OverridesParser.create().parse_override(override)
        return list(parsed.sweep_string_iterator()) if parsed.is_sweep_override() else None
    except HydraException:
        return None  # composing it will say what is wrong


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
    if given.get("coordinates") == "native" and "schedule" not in given:
        found.append("schedule=flow")
    elif solver and "schedule" not in given and solver.schedule != "polynomial":
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


def settings_text(spec: Spec) -> str:
    """All settings of a run as YAML, after its run_id; null where weights were never here."""
    known = isinstance(spec, SetSpec) or not spec.unknown_weights
    run_id = spec.run_id if known else None
    text: str = yaml.safe_dump({"run_id": run_id, **to_dict(spec, every=True)}, sort_keys=False, width=110)
    return text
