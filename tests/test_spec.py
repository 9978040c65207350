"""The RunSpec: identity, validation, building from plain values."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import erk_bench
from erk_bench.base.errors import UserError
from erk_bench.base.fields import build, identity_fields, to_dict
from erk_bench.cli import COMMANDS
from erk_bench.commands.compose import run_spec
from erk_bench.diffusers import ERKGuidDPMSolverScheduler, ERKGuidHeunScheduler
from erk_bench.runs.equation import equation_of
from erk_bench.sampling.corrections import CORRECTIONS
from erk_bench.sampling.shared import Strength
from erk_bench.spec import CorrectionSpec, RunSpec

SHA = "a" * 64

# Every field chooses: it changes the samples, or it does not. A new field must be added here too.
IDENTITY = {
    "model.name", "model.weights.sha256", "model.decoder",
    "solver.name", "solver.s_churn", "solver.s_min", "solver.s_max", "solver.s_noise",
    "schedule.name", "schedule.num_steps", "schedule.sigma_min", "schedule.sigma_max", "schedule.rho",
    "guidance.name", "guidance.weight", "guidance.interval", "guidance.guide.sha256",
    "correction.name", "correction.w_stiff", "correction.w_con",
    "dtype", "network_dtype", "draw_device", "class_label",
}  # fmt: skip
FOLDERS = ("config", "scheduler")  # files of a model of diffusers beside its weights
FOLDER_FACTS = [f"{file}.{fact}" for file in FOLDERS for fact in ("path", "architecture")]
EXTENSIONS = {
    "model.weights.own_code", "model.weights.options", "model.weights.checkpoint.sha256",
    "guidance.guide.own_code", "guidance.guide.options", "guidance.guide.checkpoint.sha256",
    "guidance.null_class", "model.decoder_sha256", "model.weights.family", "guidance.guide.family",
    "model.latent_mean", "model.latent_std",
    "coordinates", "native.interval_ends", "native.decides", "native.last_step", "native.sde",
    *(f"{part}.{file}.sha256" for part in ("model.weights", "guidance.guide") for file in FOLDERS),
    "model.vae.sha256", "model.vae_config.sha256", "compile", "numerics", "solver.options",
    "solver.denoise_to_zero", "solver.statistics.sha256",
    "schedule.sigmas", "schedule.options", "schedule.sha256", "guidance.options", "guidance.sha256",
    "correction.options", "correction.sha256", "solver.afs",
    "solver.sha256", "guidance.eta", "guidance.norm_threshold", "guidance.momentum",
}  # fmt: skip
EXECUTION = {
    *(f"{part}.{name}" for part in ("model.weights", "guidance.guide") for name in FOLDER_FACTS),
    "model.weights.checkpoint.path", "guidance.guide.checkpoint.path",
    "model.weights.checkpoint.architecture", "guidance.guide.checkpoint.architecture", "model.decoder_path",
    "model.weights.path", "guidance.guide.path", "model.vae.path", "solver.path",
    "solver.statistics.path", "solver.statistics.architecture",
    "schedule.path", "guidance.path", "correction.path",
    "model.weights.architecture", "guidance.guide.architecture", "model.vae.architecture",
    "model.vae_config.path", "model.vae_config.architecture",
    "metrics.real_features", "samples", "offline",
    "metrics.names", "metrics.reference", "metrics.num_groups", "metrics.kid_subsets",
    "metrics.kid_subset_size", "metrics.protocol",
    "metrics.converged.solver", "metrics.converged.num_steps", "metrics.converged.states",
    "seeds", "block_size", "device", "workers", "out",
}  # fmt: skip
CHANGED: dict[str, Any] = {
    **{f"{part}.{file}.sha256": "f" * 64 for part in ("model.weights", "guidance.guide") for file in FOLDERS},
    "model.weights.checkpoint.sha256": "f" * 64, "guidance.guide.checkpoint.sha256": "f" * 64,
    "model.weights.own_code": True, "guidance.guide.own_code": True, "guidance.null_class": True,
    "model.weights.options": [["by", 2.5]], "guidance.guide.options": [["by", 2.5]],
    "model.weights.sha256": "b" * 64, "guidance.guide.sha256": "c" * 64, "dtype": "float64",
    "network_dtype": "bfloat16", "draw_device": "cuda", "class_label": 3, "seeds": "0-7",
    "guidance.interval": [0.1, 5.0], "metrics.names": ["fd_digits"], "workers": 3,
    "schedule.num_steps": 9, "block_size": 7, "metrics.num_groups": 7, "metrics.kid_subsets": 7,
    "metrics.kid_subset_size": 7, "compile": True, "numerics": "fast", "model.vae.sha256": "d" * 64,
    "model.vae_config.sha256": "e" * 64, "solver.statistics.sha256": "b" * 64, "samples": "png",
    "solver.options": [["r", 0.4]], "schedule.options": [["by", 2]], "guidance.options": [["by", 2.5]],
    "correction.options": [["by", True]], "schedule.sigmas": [80.0, 1.0],
    "solver.denoise_to_zero": False, "solver.afs": True,
    "metrics.converged.num_steps": 64, "metrics.converged.solver": "euler",
    "metrics.converged.states": "float16",
    "model.latent_mean": [0.5], "model.latent_std": [2.0, 3.0],
    "offline": True, "device": "cuda", "solver.s_churn": 1.5, "correction.w_stiff": 0.25,
}  # fmt: skip


def content(vae: bool = False) -> dict[str, Any]:
    plain = _content()
    if vae:
        plain["model"] |= {"vae": {"path": "v", "sha256": SHA}, "vae_config": {"path": "c", "sha256": SHA}}
        plain["solver"] |= {"statistics": {"path": "t", "sha256": SHA}}
        for network in (plain["model"]["weights"], plain["guidance"]["guide"]):
            network |= {name: {"path": name, "sha256": SHA} for name in ("checkpoint", *FOLDERS)}
    return plain


def _content() -> dict[str, Any]:
    return {
        "model": {"name": "m", "weights": {"path": "p", "sha256": SHA}, "decoder": "rgb"},
        "solver": {"name": "heun"},
        "schedule": {
            "name": "polynomial", "num_steps": 8, "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0,
        },
        "guidance": {"name": "cfg", "weight": 1.5, "guide": {"path": "g", "sha256": SHA}},
        "correction": {"name": "erk_guid", "w_con": 0.0},
        "metrics": {"names": ["fd_digits", "kid_digits"], "reference": "digits"},
    }  # fmt: skip


def leaves(kind: type, prefix: str = "") -> Iterator[str]:
    """Dotted names of all plain fields of a spec class."""
    hints = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        options = list(typing.get_args(hints[item.name]) or (hints[item.name],))
        nested = [hint for hint in options if dataclasses.is_dataclass(hint)]
        if nested:
            yield from leaves(nested[0], f"{prefix}{item.name}.")
        else:
            yield prefix + item.name


def changed(name: str) -> RunSpec:
    """The spec of `content` with one field changed."""
    spec = to_dict(build(RunSpec, content(vae=True)), every=True)
    *parents, last = name.split(".")
    place = spec
    for parent in parents:
        place = place[parent]
    old = place[last]
    new = CHANGED.get(name)
    if new is None:
        new = 0.5 if isinstance(old, float) or old == "inf" else f"{old}x"
    assert new != old
    place[last] = new
    return build(RunSpec, spec)


def test_every_field_is_classed() -> None:
    assert set(leaves(RunSpec)) == IDENTITY | EXTENSIONS | EXECUTION
    assert len(IDENTITY | EXTENSIONS | EXECUTION) == len(IDENTITY) + len(EXTENSIONS) + len(EXECUTION)


@pytest.mark.parametrize("name", sorted(IDENTITY | EXTENSIONS))
def test_identity_fields_change_the_run_id(name: str) -> None:
    assert changed(name).run_id != build(RunSpec, content(vae=True)).run_id


def test_extensions_left_alone_do_not() -> None:
    """What came after PROTOCOL 1 leaves the names of earlier runs as they were."""
    fields = identity_fields(build(RunSpec, content()))
    assert "compile" not in fields and "vae" not in fields["model"]
    assert not {"options", "denoise_to_zero", "afs", "sha256"} & set(fields["solver"])
    assert fields["model"] == {"name": "m", "weights": {"sha256": SHA}, "decoder": "rgb"}
    assert fields["guidance"]["guide"] == {"sha256": SHA} and "null_class" not in fields["guidance"]
    assert "vae" in identity_fields(build(RunSpec, content(vae=True)))["model"]


def test_unknown_weights_have_no_identity() -> None:
    plain = content(vae=True)
    plain["model"]["vae"]["sha256"] = ""
    spec = build(RunSpec, plain)
    assert [item.path for item in spec.unknown_weights] == ["v"]
    assert spec.slug == "m-heun8-cfg1.5"
    with pytest.raises(UserError, match="sha256 of 'v' is not known yet.*erk-bench fetch"):
        spec.run_id  # noqa: B018 - reading it raises


@pytest.mark.parametrize("name", sorted(EXECUTION))
def test_execution_fields_do_not(name: str) -> None:
    assert changed(name).run_id == build(RunSpec, content(vae=True)).run_id


def test_protocol_is_part_of_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    before = build(RunSpec, content()).run_id
    monkeypatch.setattr("erk_bench.spec.identity.PROTOCOL", 999)
    assert build(RunSpec, content()).run_id != before


def test_run_id_is_readable_and_pinned() -> None:
    """A change here orphans every published record: raise PROTOCOL knowingly instead."""
    assert build(RunSpec, content()).run_id == "m-heun8-cfg1.5-af00520d3d"


def test_round_trip() -> None:
    spec = build(RunSpec, content())
    assert build(RunSpec, to_dict(spec)) == spec == build(RunSpec, to_dict(spec, every=True))
    assert "path" not in identity_fields(spec)["model"]["weights"]


def test_settings_that_came_later_leave_records_as_they_were() -> None:
    """Where they have their default; all settings of a run are shown with it."""
    spec = build(RunSpec, content())
    assert "converged" not in to_dict(spec)["metrics"]
    assert to_dict(spec, every=True)["metrics"]["converged"] == {
        "solver": "heun", "num_steps": 256, "states": "float32",
    }  # fmt: skip
    other = content()
    other["metrics"]["converged"] = {"num_steps": 64}
    assert to_dict(build(RunSpec, other))["metrics"]["converged"]["num_steps"] == 64


def put(path: str, value: Any) -> dict[str, Any]:
    spec = content()
    *parents, last = path.split(".")
    place = spec
    for parent in parents:
        place = place[parent]
    place[last] = value
    return spec


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("schedule.num_steps", 1, "num_steps is 1"),
        ("schedule.num_steps", "eight", "schedule.num_steps is 'eight'; expected int"),
        ("schedule.num_steps", True, "expected int"),
        ("schedule.sigma_min", 90.0, "sigma_min < sigma_max"),
        ("schedule.rho", 0.0, "rho is 0.0"),
        ("schedule.rh", 1.0, "did you mean 'rho'"),
        ("solver.s_churn", -1.0, "s_churn is -1.0"),
        ("correction.w_stiff", -0.5, "w_stiff is -0.5"),
        ("correction.w_con", float("nan"), "correction.w_con is nan"),
        ("guidance.interval", [2.0, 1.0], "interval is"),
        ("guidance.interval", [2.0], "guidance.interval is"),
        ("guidance.guide", None, "needs a guiding network"),
        ("model.weights.sha256", "xyz", "expected 64 hex digits"),
        ("metrics.names", [], "at least one metric"),
        ("metrics.num_groups", 1, "at least 2"),
        ("metrics.kid_subsets", 0, "kid_subsets is 0"),
        ("metrics.kid_subset_size", 1, "kid_subset_size is 1"),
        ("seeds", "5-2", "expected FIRST-LAST"),
        ("seeds", "all", "expected FIRST-LAST"),
        ("seeds", 100, "expected FIRST-LAST"),
        ("block_size", 0, "block_size is 0"),
        ("workers", 0, "workers is 0"),
        ("dtype", "float23", "did you mean 'float32'"),
        ("network_dtype", "fp16", "unknown network_dtype 'fp16'"),
        ("draw_device", "gpu", "unknown draw_device 'gpu'"),
    ],
)
def test_bad_values_are_named(path: str, value: Any, named: str) -> None:
    with pytest.raises(UserError, match=named):
        build(RunSpec, put(path, value))


def test_missing_field_is_named() -> None:
    spec = content()
    del spec["schedule"]["num_steps"]
    with pytest.raises(UserError, match="schedule.num_steps is missing"):
        build(RunSpec, spec)


def test_erk_guid_refuses_churn() -> None:
    spec = put("correction", {"name": "erk_guid", "w_stiff": 1.0})
    spec["solver"] = {"name": "heun", "s_churn": 2.0}
    with pytest.raises(UserError, match="deterministic"):
        equation_of(build(RunSpec, spec))


@pytest.fixture(params=["0-0", "0-1999", "100000-149999"])
def seeds(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_seed_range_includes_both_ends(seeds: str) -> None:
    first, last = map(int, seeds.split("-"))
    found = build(RunSpec, put("seeds", seeds)).seed_range
    assert (found[0], found[-1], len(found)) == (first, last, last - first + 1)


def test_frozen(small_run: Callable[..., RunSpec]) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        small_run().seeds = "0-1"  # type: ignore[misc]  # must fail


def test_w_con_has_one_default() -> None:
    """As published, wherever a default is given."""
    found = {
        "spec": CorrectionSpec(name="erk_guid").w_con,
        "sample": inspect.signature(erk_bench.sample).parameters["w_con"].default,
        "grid": Strength(1.0).w_con,
        "qualitative": COMMANDS["qualitative"].options().w_con,
        **{name: run_spec([f"correction={name}"]).correction.w_con for name in CORRECTIONS if name != "none"},
        **{
            make.__name__: inspect.signature(make).parameters["w_con"].default
            for make in (ERKGuidHeunScheduler, ERKGuidDPMSolverScheduler)
        },
    }
    assert found == dict.fromkeys(found, 0.5)


def test_the_plain_solver_has_one_identity() -> None:
    assert CorrectionSpec(name="none", w_con=0.7) == CorrectionSpec(name="none")
    assert run_spec(["correction.w_con=0.7"]).digest == run_spec([]).digest
