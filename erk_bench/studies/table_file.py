"""Table files: which rows a table has, what each is compared with, and what is published of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from erk_bench.base.addresses import is_address
from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.fields import build
from erk_bench.base.file_names import check_file_name
from erk_bench.base.own_settings import each_file
from erk_bench.base.yaml_files import check_text, is_line, is_number, read_yaml
from erk_bench.evaluation.metrics import METRICS
from erk_bench.reporting.table_views import FIGURES, NO_FIGURE
from erk_bench.spec import RunSpec, Spec

# What `baseline` may say instead of a row: the same run uncorrected; the first plain row of equal cost.
SOLVER, COST = RULES = ("solver", "cost")
EXAMPLE = "see configs/table/digits.yaml, or table2.yaml for one with published values"


@dataclass(frozen=True)
class Published:
    """What the published values of a table have in common.

    sets: 1 for values of a single set of `images`, n for the minimum of n. tolerance: of the published value.
    """

    source: str
    sets: int
    images: int
    tolerance: float

    def __post_init__(self) -> None:
        _check_lines("published.source", [self.source])
        for name in ("sets", "images", "tolerance"):
            value = getattr(self, name)
            if not is_number(value) or value <= 0:
                raise UserError(f"published.{name} is {value!r}; expected a number above 0")


@dataclass(frozen=True)
class Minimum:
    """The published best value of the rows of a group."""

    group: str | int
    metric: str
    value: float
    source: str

    def __post_init__(self) -> None:
        _check_metric(self.metric)
        _check_lines("minima.source", [self.source])
        if not is_number(self.value):
            raise UserError(f"minima.value is {self.value!r}; expected a number")


@dataclass(frozen=True)
class RowSpec:
    """A row of a table. set: its settings. images: the place of a set that something else made, in their
    stead. published: the known values by metric; source: where these are from, "" for the table's source.
    sampler: how their images were sampled, where not as in this row: then they get no verdict.

    label: what the row is called, "" for its solver's and correction's own names. baseline: here as in the
    table, for this row alone.
    """

    set: tuple[str, ...] = ()
    published: Mapping[str, float] = field(default_factory=dict)
    group: str | int | None = None
    label: str = ""
    baseline: str | int | None = None
    images: str = ""
    source: str = ""
    sampler: str = ""

    def __post_init__(self) -> None:
        _check_lines("set", self.set)
        _check_lines("label", [self.label])
        _check_lines("source", [self.source])
        _check_lines("sampler", [self.sampler])
        _check_lines("images", [self.images])
        if bool(self.set) == bool(self.images) and self.images:
            raise UserError(
                f"a row has images '{self.images}' and settings {list(self.set)}; give one of the two"
            )
        if self.label in RULES:
            raise UserError(f"label is '{self.label}', which is a rule of 'baseline'; choose another name")
        _check_lines("group", [self.group] if isinstance(self.group, str) else [])
        for metric, value in self.published.items():
            _check_metric(metric)
            if not is_number(value):
                raise UserError(f"published.{metric} is {value!r}; expected a number")

    def overridden(self) -> RowSpec:
        """The row under settings that change what it computes: label and published values are not of that."""
        return RowSpec(self.set, baseline=self.baseline) if not self.images else self


@dataclass(frozen=True)
class TableFile:
    """A table: its rows over a base run, and how they are shown.

    base: settings of every row. headline: the metric that rows are compared by. reference: the folder of its
    reference records; tolerance: standard errors that a row may be off its reference. fetch: whether `fetch
    TRACK` gets its networks. figure: how it is drawn. sheet_nfe: evaluations of the rows whose images are
    shown, None for all. baseline: what rows are compared with: the number or label of a row, or a rule; None
    for the rule 'solver'. best: whether the best row of each group is told below the table. over_networks:
    the rows of a group are one method on networks of several training seeds, and notes say whether its
    differences hold over them.
    """

    name: str
    title: str
    caption: str
    base: tuple[str, ...]
    headline: str
    rows: tuple[RowSpec, ...]
    reference: str | None = None
    tolerance: float = 1.0
    published: Published | None = None
    minima: tuple[Minimum, ...] = ()
    fetch: bool = True
    figure: str = "steps"
    sheet_nfe: float | None = None
    baseline: str | int | None = None
    best: bool = False
    over_networks: bool = False

    def __post_init__(self) -> None:
        check_file_name("its name", self.name)
        for name in ("title", "caption", "reference"):
            if getattr(self, name) is not None:
                check_text("it", name, getattr(self, name))
        _check_lines("base", self.base)
        _check_metric(self.headline)
        if not self.rows:
            raise UserError("it has no rows")
        if not is_number(self.tolerance) or self.tolerance <= 0:
            raise UserError(f"tolerance is {self.tolerance!r}; expected a number of standard errors above 0")
        if self.sheet_nfe is not None and not is_number(self.sheet_nfe):
            raise UserError(f"sheet_nfe is {self.sheet_nfe!r}; expected a number of evaluations")
        for row in self.rows:
            if self.baseline_of(row) is row and row.baseline is not None:
                raise UserError(f"the row '{row.baseline}' has itself as its baseline; name another row")
        if self.figure not in (*FIGURES, NO_FIGURE):
            raise unknown_name("figure", self.figure, [*FIGURES, NO_FIGURE])
        known = any(row.published for row in self.rows)
        if known and self.published is None:
            raise UserError(
                "rows have published values, but there is no entry 'published' with their source, sets, "
                "images and tolerance"
            )
        for entry in self.minima:
            if not known:
                raise UserError("it has minima, but no row with published values beside them")
            if all(row.group != entry.group for row in self.rows):
                raise UserError(f"minima has the group '{entry.group}', which no row is in")

    @property
    def names_baselines(self) -> bool:
        """Whether the table or a row of it says what is compared with what."""
        return self.baseline is not None or any(row.baseline is not None for row in self.rows)

    def baseline_of(self, row: RowSpec) -> str | RowSpec:
        """A rule, or the row that `row` is compared with."""
        name = self.baseline if row.baseline is None else row.baseline
        if name is None:
            return SOLVER
        return name if isinstance(name, str) and name in RULES else self._named(name)

    def _named(self, name: str | int) -> RowSpec:
        """The row of that number or label. Raises UserError where there is none, or several."""
        if isinstance(name, int):
            if not 0 <= name < len(self.rows):
                raise UserError(
                    f"baseline is {name}; expected the number of a row, 0 to {len(self.rows) - 1}"
                )
            return self.rows[name]
        found = [row for row in self.rows if row.label == name]
        if not found or not name:
            labels = dict.fromkeys(row.label for row in self.rows if row.label)
            raise unknown_name("baseline", name, [*RULES, *labels, f"0 to {len(self.rows) - 1}"])
        if len(found) > 1:
            raise UserError(f"baseline is '{name}', the label of {len(found)} rows; give the number of one")
        return found[0]


def read_table(file: Path, folder: Path | None = None) -> TableFile:
    """A table file. Raises UserError naming the file and what is missing, unknown or of the wrong kind.

    folder: what its relative paths start from; the file's own folder unless given. `reference` always does,
    files in settings where they are there, and else from where the command runs.
    """
    content = read_yaml(file, "table", EXAMPLE)
    folder = file.parent if folder is None else folder
    try:
        table = build(TableFile, _plain(content))
    except UserError as error:
        raise UserError(f"the table '{file}': {error}; {EXAMPLE}") from error
    rows = tuple(
        dataclasses.replace(row, set=_beside(folder, row.set), images=_place(folder, row.images))
        for row in table.rows
    )
    reference = table.reference and str(folder / Path(table.reference).expanduser())
    return dataclasses.replace(table, base=_beside(folder, table.base), rows=rows, reference=reference)


def _beside(folder: Path, settings: Sequence[str]) -> tuple[str, ...]:
    """The settings, with the files that are in `folder` found from anywhere."""
    found = []
    for setting in settings:
        key, equals, value = setting.partition("=")
        found.append(key + equals + each_file(value, functools.partial(_file, folder)))
    return tuple(found)


def _file(folder: Path, value: str) -> str:
    """An address, in `folder` where its file is there."""
    path, colon, name = value.partition(":") if is_address(value) else (value, "", "")
    here = bool(Path(path).suffix) and not Path(path).is_absolute() and (folder / path).is_file()
    return f"{folder / path}{colon}{name}" if here else value


def _place(folder: Path, images: str) -> str:
    """The place of a set, from `folder` where it is there."""
    here = bool(images) and not Path(images).is_absolute() and (folder / images).exists()
    return str(folder / images) if here else images


def _plain(content: object) -> dict[str, Any]:
    """The entries as TableFile has them: each row as a mapping, without what is left open."""
    if not isinstance(content, dict):
        raise UserError("it is no mapping of names to values")
    fields = {item.name: item for item in dataclasses.fields(TableFile)}
    for name in content:
        if name not in fields:
            raise unknown_name("entry", name, fields)
    for name, item in fields.items():
        if item.default is dataclasses.MISSING and name not in content:
            raise UserError(f"it lacks '{name}'")
    if not isinstance(content["rows"], list):
        raise UserError(f"rows is {content['rows']!r}; expected a list of rows")
    rows = []
    for number, given in enumerate(content["rows"]):
        row = dict(given) if isinstance(given, dict) else {"set": given}
        if "set" not in row and "images" not in row:
            raise UserError(
                "it has a row with neither 'set', a list of KEY=VALUE texts, nor 'images', the place of a "
                f"set of images: rows[{number}]"
            )
        values = row.get("published") or {}
        if isinstance(values, dict):
            values = {_one_name(metric): value for metric, value in values.items() if value is not None}
        rows.append({**row, "published": values})
    found = {**content, "headline": _one_name(content["headline"]), "rows": rows}
    minima = content.get("minima") or []
    if isinstance(minima, list):
        minima = [
            {**entry, "metric": _one_name(entry.get("metric"))} if isinstance(entry, dict) else entry
            for entry in minima
        ]
    found["minima"] = minima
    if isinstance(found["caption"], str):
        check_text("it", "caption", found["caption"], several_lines=True)
        found["caption"] = " ".join(found["caption"].split())
    return found


def check_rows(table: TableFile, specs: Sequence[Spec]) -> None:
    """Refuse rows whose records could not stand in one table, before any of them is computed."""
    first = next((spec for spec in specs if isinstance(spec, RunSpec)), specs[0])
    wanted = [table.headline, *(entry.metric for entry in table.minima)]
    for spec in specs:
        for metric in wanted:
            if metric not in spec.metrics.names:
                raise UserError(
                    f"the table '{table.name}' shows '{metric}', but metrics.names is "
                    f"[{','.join(spec.metrics.names)}] in its row {spec.slug}; add it there"
                )
        for what, mine, other in (
            ("seeds", _seeds(spec), _seeds(first)),
            ("metrics.names", sorted(spec.metrics.names), sorted(first.metrics.names)),
            ("metrics.reference", spec.metrics.reference, first.metrics.reference),
            ("metrics.real_features", spec.metrics.real_features, first.metrics.real_features),
            ("metrics.num_groups", spec.metrics.num_groups, first.metrics.num_groups),
        ):
            if mine != other and not (what == "seeds" and None in (mine, other)):
                raise UserError(
                    f"the rows of the table '{table.name}' differ in {what}: {other} in {first.slug}, {mine} "
                    f"in {spec.slug}; they are compared on the same seeds and metrics: set {what} once, in "
                    "base"
                )


def _seeds(spec: Spec) -> str | None:
    """None for a set, whose images have no seeds."""
    return spec.seeds if isinstance(spec, RunSpec) else None


def _check_lines(place: str, texts: Sequence[str]) -> None:
    for text in texts:
        if not is_line(text):
            raise UserError(f"{place} has {text[:80]!r}; expected a text of one line")


def _check_metric(name: str) -> None:
    METRICS[name]  # raises UserError for what is none


def _one_name(metric: object) -> object:
    """The one name of a metric: fid, which fd@inception is as well."""
    return METRICS[metric].name if isinstance(metric, str) and metric in METRICS else metric
