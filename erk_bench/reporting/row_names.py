"""What a table calls its rows: guidance, solver with its options, correction with its settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from erk_bench.base.fields import identity_fields
from erk_bench.sampling.guidance import GUIDANCES
from erk_bench.sampling.guided import EVERYWHERE
from erk_bench.sampling.solvers import SOLVERS
from erk_bench.spec import RunSpec

CORRECTION_TITLES = {
    "erk_guid": "ERK-Guid", "erk_alpha": "ERK-alpha", "erk_gauss": "ERK-Gauss", "erk_dx": "ERK-dx",
    "erk_proj": "ERK-proj",
}  # fmt: skip


GIVEN_IMAGES = "given images"  # in the place of a guidance: a set that something else made


class RowName(NamedTuple):
    """method: all of it. solver: without the correction; equal to `method` of a plain row."""

    method: str
    solver: str


def row_names(specs: Sequence[RunSpec]) -> list[RowName]:
    """The names of a table's rows.

    The solver of a correction is named where the table has more than Heun, and a row's model where there are
    several. Settings that no name has (such as schedule.rho) are added where two rows of one guidance and
    number of steps differ in nothing else, as many as tell them apart.
    """
    models = len({spec.model.name for spec in specs}) > 1
    several = models or len({spec.solver.name for spec in specs}) > 1
    solvers = [_solver(spec) + (f", {spec.model.name}" if models else "") for spec in specs]
    names = [_method(spec, solver, several) for spec, solver in zip(specs, solvers, strict=True)]
    fields = [dict(_flat(identity_fields(spec))) for spec in specs]
    by_place: dict[tuple[str, str, int], list[int]] = {}
    for number, (name, spec) in enumerate(zip(names, specs, strict=True)):
        by_place.setdefault((name, guidance_name(spec), spec.schedule.num_steps), []).append(number)
    telling: dict[str, list[str]] = {name: [] for name in names}  # settings by name, in order
    for (name, _, _), numbers in by_place.items():
        for key in dict.fromkeys(key for number in numbers for key in fields[number]):
            if _kinds(fields, numbers, [*telling[name], key]) > _kinds(fields, numbers, telling[name]):
                telling[name].append(key)
    found = []
    for name, spec, plain, content in zip(names, specs, solvers, fields, strict=True):
        told = [key for key in telling[name] if not (key == "schedule.name" and _own_schedule(spec))]
        extra = "".join(f", {_short(key)} {_text(content.get(key))}" for key in told)
        solver = plain + extra
        found.append(RowName(_method(spec, solver, several or bool(extra)), solver))
    return found


def guidance_name(spec: RunSpec) -> str:
    """'CFG 1.25', with the guidance's own options, and the interval where it has one: of sigmas, or of the
    model's own time.
    """
    if not spec.guidance.active:
        return "no guidance"
    row = GUIDANCES.get(spec.guidance.name)
    options = "".join(f", {name} {_shown(value)}" for name, value in spec.guidance.all_options.items())
    low, high = spec.guidance.interval
    where = f" for t from {low:g} to {high:g}" if spec.coordinates == "native" else f" in ({low:g}, {high:g}]"
    where = where if (low, high) != EVERYWHERE else ""
    return f"{(row and row.title) or spec.guidance.name} {spec.guidance.weight:g}{options}{where}"


def _shown(value: object) -> str:
    return "/".join(f"{each:g}" for each in value) if isinstance(value, tuple) else str(value)


def _kinds(fields: Sequence[Mapping[str, Any]], numbers: Sequence[int], keys: Sequence[str]) -> int:
    """How many of the rows these settings tell apart."""
    return len({tuple(repr(fields[number].get(key)) for key in keys) for number in numbers})


def _own_schedule(spec: RunSpec) -> bool:
    """Whether the noise levels are of the schedule that the solver comes with, which need not be named."""
    row = SOLVERS.get(spec.solver.name)
    return row is not None and row.schedule == spec.schedule.name


def _solver(spec: RunSpec) -> str:
    row = SOLVERS.get(spec.solver.name)
    options = "".join(f", {key} {value}" for key, value in spec.solver.options)
    title = "Euler-Maruyama" if spec.native.sde else (row and row.title) or spec.solver.name
    return f"{title}{options}"


def _method(spec: RunSpec, solver: str, several: bool) -> str:
    """several: whether the corrected solver must be named."""
    if not spec.correction.w_stiff:
        return solver
    on = f" on {solver}" if several or spec.solver.name != "heun" else ""
    title = CORRECTION_TITLES.get(spec.correction.name, spec.correction.name)
    return f"{title}{on} ({spec.correction.w_stiff:g}, {spec.correction.w_con:g})"


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _short(key: str) -> str:
    """The last part of a setting's name; a choice and a file's hash by what they are of."""
    *before, last = key.split(".")
    if last == "name" and before:
        return before[-1]
    return f"{before[-1]} file" if last == "sha256" and before else last


def _text(value: object) -> str:
    """As in settings; of hashes the first figures."""
    text = "default" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text[:8] if len(text) == 64 else text
