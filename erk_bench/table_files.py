"""Table files: which rows a table has, and what is published of them; checked before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from erk_bench.errors import UserError, unknown_name
from erk_bench.evaluation.metrics import METRICS
from erk_bench.file_names import check_file_name

NEEDED = ("name", "title", "caption", "base", "headline", "rows")
KNOWN = (*NEEDED, "reference", "tolerance", "published", "minima", "fetch", "figure", "sheet_nfe")
FIGURES = ("steps", "nfe")  # keys of reporting.figures.FIGURES, which takes long to import
EXAMPLE = "see configs/table/digits.yaml, or table2.yaml for one with published values"


def read_table(file: Path) -> dict[str, Any]:
    """The content of a table file; each row as a mapping with 'set', 'published' (known values), 'group'.

    Raises UserError naming what is missing, unknown or of the wrong kind.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the table '{file}': {error}; {EXAMPLE}") from error

    def check(condition: bool, problem: str) -> None:
        if not condition:
            raise UserError(f"the table '{file}' {problem}; {EXAMPLE}")

    check(isinstance(content, dict), "is no mapping of names to values")
    for name in content:
        if name not in KNOWN:
            raise unknown_name(f"entry of the table '{file}'", name, KNOWN)
    for name in NEEDED:
        check(name in content, f"lacks '{name}'")
    for name in ("name", "title", "caption", "headline"):
        check(isinstance(content[name], str), f"has {name} {content[name]!r}, not a text")
    check(_is_settings(content["base"]), f"has base {content['base']!r}, not a list of KEY=VALUE texts")
    check(isinstance(content["rows"], list) and bool(content["rows"]), "has no rows")
    check_file_name(f"the name of the table '{file}'", content["name"])
    _check_metric(file, content["headline"])
    rows = [row if isinstance(row, dict) else {"set": row} for row in content["rows"]]
    for row in rows:
        for name in row:
            if name not in ("set", "published", "group"):
                raise unknown_name(f"entry of a row of '{file}'", name, ("set", "published", "group"))
        check(_is_settings(row.get("set")), f"has a row without a list of KEY=VALUE texts: {row}")
        values = row.get("published") or {}
        check(isinstance(values, dict), f"has published {values!r}, not values by metric")
        for metric, value in values.items():
            _check_metric(file, metric)
            check(value is None or _is_number(value), f"has published {metric} {value!r}, not a number")
        row["published"] = {metric: value for metric, value in values.items() if value is not None}
    if any(row["published"] for row in rows):
        shared = content.get("published")
        if not isinstance(shared, dict):
            raise UserError(
                f"the table '{file}' has published values but no 'published' entry with their source, sets, "
                f"images and tolerance; {EXAMPLE}"
            )
        source = shared.get("source")
        check(isinstance(source, str), f"has published.source {source!r}, not a text")
        for name in ("sets", "images", "tolerance"):
            number: Any = shared.get(name)
            good = _is_number(number) and number > 0 and (name == "tolerance" or isinstance(number, int))
            check(good, f"has published.{name} {number!r}, not a number above 0 (sets and images whole)")
    figure = content.get("figure", "steps")
    if figure not in FIGURES:
        raise unknown_name(f"figure of the table '{file}'", str(figure), FIGURES)
    sheet = content.get("sheet_nfe")
    check(sheet is None or _is_number(sheet), f"has sheet_nfe {sheet!r}, not a number of evaluations")
    for entry in content.get("minima", []):
        complete = isinstance(entry, dict) and {"group", "metric", "value", "source"} == set(entry)
        check(complete, f"has minima {entry!r}; an entry needs group, metric, value, source")
        _check_metric(file, entry["metric"])
        grouped = any(row.get("group") == entry["group"] for row in rows)
        check(grouped, f"has minima of group '{entry['group']}', which no row is in")
    return {**content, "rows": rows}


def without_published(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row that computes something else than what was published."""
    return {**row, "published": {}, "group": None}


def _is_settings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_metric(file: Path, name: str) -> None:
    if name not in METRICS:
        raise unknown_name(f"metric in the table '{file}'", name, METRICS)
