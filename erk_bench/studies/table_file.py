"""Table files: which rows a table has, and what is published of them; checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.file_names import check_file_name
from erk_bench.base.yaml_files import check_text, is_line, is_number, read_yaml
from erk_bench.evaluation.metrics import METRICS, check_metric
from erk_bench.spec import RunSpec

NEEDED = ("name", "title", "caption", "base", "headline", "rows")
KNOWN = (*NEEDED, "reference", "tolerance", "published", "minima", "fetch", "figure", "sheet_nfe")
FIGURES = ("steps", "nfe")  # keys of reporting.figures.FIGURES, which takes long to import
EXAMPLE = "see configs/table/digits.yaml, or table2.yaml for one with published values"


def read_table(file: Path) -> dict[str, Any]:
    """The content of a table file; each row as a mapping with 'set', 'published' (known values), 'group'.

    Raises UserError naming what is missing, unknown or of the wrong kind.
    """
    content = read_yaml(file, "table", EXAMPLE)

    def check(condition: bool, problem: str) -> None:
        if not condition:
            raise UserError(f"the table '{file}' {problem}; {EXAMPLE}")

    check(isinstance(content, dict), "is no mapping of names to values")
    for name in content:
        if name not in KNOWN:
            raise unknown_name(f"entry of the table '{file}'", name, KNOWN)
    for name in NEEDED:
        check(name in content, f"lacks '{name}'")
    for name in ("name", "title", "headline", "reference"):
        if name in content and not (name == "reference" and content[name] is None):
            check_text(f"the table '{file}'", name, content[name], EXAMPLE)
    check_text(f"the table '{file}'", "caption", content["caption"], EXAMPLE, several_lines=True)
    check(_is_settings(content["base"]), f"has base {content['base']!r}, not a list of KEY=VALUE texts")
    check_file_name(f"the name of the table '{file}'", content["name"])
    check(isinstance(content["rows"], list), f"has rows {content['rows']!r}, not a list of rows")
    check(bool(content["rows"]), "has no rows")
    check(
        is_number(content.get("tolerance", 1.0)) and content.get("tolerance", 1.0) > 0,
        f"has tolerance {content.get('tolerance')!r}, not a number of standard errors above 0",
    )
    check(type(content.get("fetch", True)) is bool, f"has fetch {content.get('fetch')!r}, not true or false")
    _check_metric(file, content["headline"])
    rows = [row if isinstance(row, dict) else {"set": row} for row in content["rows"]]
    for row in rows:
        for name in row:
            if name not in ("set", "published", "group"):
                raise unknown_name(f"entry of a row of '{file}'", name, ("set", "published", "group"))
        check(_is_settings(row.get("set")), f"has a row without a list of KEY=VALUE texts: {row}")
        group = row.get("group")
        check(
            group is None or isinstance(group, int) or is_line(group),
            f"has a row of group {group!r}, not a text or whole number",
        )
        values = row.get("published") or {}
        check(isinstance(values, dict), f"has published {values!r}, not values by metric")
        for metric, value in values.items():
            _check_metric(file, metric)
            check(value is None or is_number(value), f"has published {metric} {value!r}, not a number")
        row["published"] = {metric: value for metric, value in values.items() if value is not None}
    if any(row["published"] for row in rows):
        shared = content.get("published")
        if not isinstance(shared, dict):
            raise UserError(
                f"the table '{file}' has published values but no 'published' entry with their source, sets, "
                f"images and tolerance; {EXAMPLE}"
            )
        source = shared.get("source")
        check(is_line(source), f"has published.source {source!r}, not a text of one line")
        for name in ("sets", "images", "tolerance"):
            number: Any = shared.get(name)
            good = is_number(number) and number > 0 and (name == "tolerance" or isinstance(number, int))
            check(good, f"has published.{name} {number!r}, not a number above 0 (sets and images whole)")
    figure = content.get("figure", "steps")
    if figure not in FIGURES:
        raise unknown_name(f"figure of the table '{file}'", str(figure), FIGURES)
    sheet = content.get("sheet_nfe")
    check(sheet is None or is_number(sheet), f"has sheet_nfe {sheet!r}, not a number of evaluations")
    minima = content.get("minima") or []
    check(isinstance(minima, list), f"has minima {minima!r}, not a list")
    for entry in minima:
        complete = isinstance(entry, dict) and {"group", "metric", "value", "source"} == set(entry)
        check(complete, f"has minima {entry!r}; an entry needs group, metric, value, source")
        _check_metric(file, entry["metric"])
        check(is_number(entry["value"]), f"has minima with value {entry['value']!r}, not a number")
        check(is_line(entry["source"]), f"has minima with source {entry['source']!r}, not a text of one line")
        check(
            any(row["published"] for row in rows), "has minima, but no row with published values beside them"
        )
        grouped = any(row.get("group") == entry["group"] for row in rows)
        check(grouped, f"has minima of group '{entry['group']}', which no row is in")
    headline = METRICS[content["headline"]].name
    return {**content, "headline": headline, "rows": rows, "minima": minima}


def check_rows(table: Mapping[str, Any], specs: Sequence[RunSpec]) -> None:
    """Refuse rows whose records could not stand in one table, before any of them is computed."""
    name, first = table["name"], specs[0]
    wanted = [table["headline"], *(entry["metric"] for entry in table.get("minima") or ())]
    for spec in specs:
        for metric in wanted:
            if metric not in spec.metrics.names:
                raise UserError(
                    f"the table '{name}' shows '{metric}', but metrics.names is "
                    f"[{','.join(spec.metrics.names)}] in its row {spec.slug}; add it there"
                )
        for what, mine, other in (
            ("seeds", spec.seeds, first.seeds),
            ("metrics.names", sorted(spec.metrics.names), sorted(first.metrics.names)),
            ("metrics.reference", spec.metrics.reference, first.metrics.reference),
            ("metrics.real_features", spec.metrics.real_features, first.metrics.real_features),
            ("metrics.num_groups", spec.metrics.num_groups, first.metrics.num_groups),
        ):
            if mine != other:
                raise UserError(
                    f"the rows of the table '{name}' differ in {what}: {other} in {first.slug}, {mine} in "
                    f"{spec.slug}; they are compared on the same seeds and metrics: set {what} once, in base"
                )


def without_published(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row that computes something else than what was published."""
    return {**row, "published": {}, "group": None}


def _is_settings(value: object) -> bool:
    return isinstance(value, list) and all(is_line(item) for item in value)


def _check_metric(file: Path, name: object) -> None:
    check_metric(name, f"the table '{file}'")
