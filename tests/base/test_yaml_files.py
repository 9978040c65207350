"""Every kind of file in YAML: whatever is wrong with it is one line, with the file, before anything runs."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from erk_bench.base.config_files import config_folder
from erk_bench.base.errors import UserError
from erk_bench.base.yaml_files import MAX_BYTES, MAX_DEPTH, is_line, is_number, read_yaml
from erk_bench.cli import main
from erk_bench.studies.grid_file import read_grid
from erk_bench.studies.manifest import HEADER
from erk_bench.studies.table_file import Minimum, Published, RowSpec, TableFile, read_table


def bomb(first: str, other: str) -> bytes:
    """Nine levels of nine aliases each: a billion values."""
    lines = [f"a: &a {first}"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} {other.format(','.join([f'*{before}'] * 9))}")
    return "\n".join(lines).encode()


# What no file may be, whatever it is for.
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty"),
    "comment": (b"# nothing\n", "it is empty"),
    "binary": (b"\x89PNG\r\n\x1a\n\0\0", "line 1 is no UTF-8 text"),
    "null": (b"name: a\nb: \0", "line 2 has the character U\\+0000"),
    "utf16": ("name: a".encode("utf-16"), "no UTF-8 text"),
    "latin1": ("a: 1\nname: \xfc".encode("latin-1"), "line 2 is no UTF-8 text"),
    "tab": (b"a:\n\tb: 1", "line 2"),
    "documents": (b"a: 1\n---\nb: 1", "line 2.* another document"),
    "twice": (b"name: a\nname: b", "line 2: 'name' is given twice"),
    "recursive": (b"name: &a [*a]", "line 1: it refers to itself"),
    "recursive map": (b"name: &a {b: {c: *a}}", "refers to itself"),
    "laughs": (bomb("[x,x,x,x,x,x,x,x,x]", "[{}]"), "aliases written out it has more than 100,000 values"),
    "merges": (bomb("{x: 1}", "{{<<: [{}]}}"), "aliases written out"),
    "undefined": (b"name: *a", "line 1: found undefined alias"),
    "deep list": (b"name: " + b"[" * 3000, f"line 1: values are nested more than {MAX_DEPTH} deep"),
    "deep map": (b"{a: " * 3000, "nested more than"),
    "deep keys": (b"? " * 3000, "nested more than"),
    "open": (b"name: [1, 2", "line 1"),
    "date": (b"title: x\nname: 2026-13-45", "line 2: '2026-13-45' is no timestamp; put quotes"),
    "time": (b"name: 2026-01-01T99:00:00Z", "line 1: '2026-01-01T99:00:00Z' is no timestamp"),
    "integer": (b"name: !!int x", "line 1: 'x' is no int"),
    "long": (b"name: " + b"9" * 5000, "line 1: '9999.* is no int"),
    "bool": (b"name: !!bool perhaps", "line 1: 'perhaps' is no bool"),
    "set": (b"name: !!set {a}", "line 1: it has the tag .*set"),
    "object": (b"name: !!python/object/apply:os.system [x]", "line 1: it has the tag .*os.system"),
    "key": (b"[a, b]: 1", "line 1: a key is a list"),
    "merge": (b"<<: 3", "line 1"),
    "escape": (b'name: "\\xzz"', "line 1"),
    "large": (b"a: " + b"x" * MAX_BYTES, "more than 1,000,000 bytes"),
    "scalar": (b"just a text", "is no mapping"),
    "list": (b"[a, b]", "is no mapping"),
}


@pytest.mark.parametrize("kind", ["table", "grid"])
@pytest.mark.parametrize("name", BAD)
def test_bad_files(kind: str, name: str, tmp_path: Path) -> None:
    content, told = BAD[name]
    check(kind, content, told, tmp_path)


def check(kind: str, content: bytes, told: str, folder: Path) -> None:
    """Reading the file fails with one line, and soon."""
    file = folder / "mine.yaml"
    file.write_bytes(content)
    read = {"table": read_table, "grid": read_grid}[kind]
    start = time.monotonic()
    with pytest.raises(UserError, match=told) as caught:
        read(file)
    assert time.monotonic() - start < 5
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for name, told in (("pipe", "no such file"), ("folder", "it is a folder"), ("absent", "no such file")):
        with pytest.raises(UserError, match=told):
            read_table(tmp_path / f"{name}.yaml")


def test_a_byte_order_mark_and_some_aliases_are_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(b"\xef\xbb\xbfbase: &b {x: 1}\nrows: [*b, {<<: *b, y: 2}]")
    assert read_yaml(file, "table") == {"base": {"x": 1}, "rows": [{"x": 1}, {"x": 1, "y": 2}]}


def test_every_config_is_read_as_yaml_has_it() -> None:
    files = [
        file for file in config_folder().rglob("*.yaml") if file.parent.name in ("table", "grid", "model")
    ]
    assert len(files) > 20
    for file in files[::5]:
        assert read_yaml(file, "settings") == yaml.safe_load(file.read_text())


def test_a_table_is_a_frozen_value(tmp_path: Path) -> None:
    """An entry has the name that it has in the file; a row may be its settings alone."""
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**TABLE, "rows": [["solver=euler"], *TABLE["rows"]]}))
    published = Published("a paper", 1, 1000, 0.1)
    assert read_table(file) == TableFile(
        name="mine", title="Mine", caption="Two rows. Of mine.", base=("track=digits",), headline="fd_digits",
        rows=(RowSpec(("solver=euler",)), RowSpec((), {"fd_digits": 1.0}, "A")), published=published,
        minima=(Minimum("A", "fd_digits", 1.0, "a paper"),),
    )  # fmt: skip
    with pytest.raises(UserError, match="tolerance is -1"):
        TableFile("mine", "Mine", "Mine.", (), "fd_digits", (RowSpec(()),), tolerance=-1.0)


def test_numbers_and_lines() -> None:
    assert all(map(is_number, (0, -1.5, 1e30)))
    assert not any(map(is_number, (True, None, "1", float("nan"), float("inf"), 10**400, [1])))
    assert is_line('it\'s "quoted", \u00fc \u221e') and not is_line(3)
    assert not any(is_line(f"a{letter}b") for letter in "\n\r\t\0\x1b\x85\u2028\u2029\ud800")


TABLE: dict[str, Any] = {
    "name": "mine", "title": "Mine", "caption": "Two rows.\nOf mine.", "headline": "fd_digits",
    "base": ["track=digits"], "rows": [{"set": [], "published": {"fd_digits": 1.0}, "group": "A"}],
    "published": {"source": "a paper", "sets": 1, "images": 1000, "tolerance": 0.1},
    "minima": [{"group": "A", "metric": "fd_digits", "value": 1.0, "source": "a paper"}],
    "tolerance": 1.0, "fetch": True, "figure": "steps",
}  # fmt: skip
GRID: dict[str, Any] = {
    "name": "mine", "title": "Mine", "caption": "Made here.", "base": ["correction=erk_guid"],
    "axes": {"correction.w_stiff": [0.5, 1.0], "correction.w_con": [0.0, 0.5]}, "panels": ["fd_digits"],
}  # fmt: skip
ODD = [None, 5, 1.5, True, [], {}, "", [[1]], {"a": 1}, float("nan"), float("inf"), 10**400, "a\nb", "\u2028",
       "a\x85b", "a\rb", "\x1b[2J", "abc", ["a\nb"], [None], [{}]]  # fmt: skip
GOOD = {
    ("table", "name"): ["abc"], ("table", "title"): ["abc"], ("table", "caption"): ["abc", "a\nb"],
    ("table", "headline"): [], ("table", "base"): [[]], ("table", "rows"): [],
    ("table", "published"): [], ("table", "minima"): [None, [], {}, ""],
    ("table", "tolerance"): [5, 1.5], ("table", "fetch"): [True], ("table", "figure"): [],
    ("table", "reference"): [None, "abc"], ("table", "sheet_nfe"): [None, 5, 1.5],
    ("grid", "name"): ["abc"], ("grid", "title"): ["abc"], ("grid", "caption"): ["abc", "a\nb"],
    ("grid", "base"): [[]], ("grid", "axes"): [], ("grid", "panels"): [], ("grid", "x"): [None],
    ("grid", "curves"): [None],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), GOOD)
def test_every_entry_refuses_what_is_not_its_own(kind: str, name: str, tmp_path: Path) -> None:
    good = GOOD[kind, name]
    whole, read = {"table": (TABLE, read_table), "grid": (GRID, read_grid)}[kind]
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(whole))
    read(file)
    for value in ODD:
        file.write_text(yaml.safe_dump({**whole, name: value}))
        if any(type(value) is type(other) and value == other for other in good):
            read(file)
            continue
        with pytest.raises(UserError) as caught:
            read(file)
        told = str(caught.value)
        assert "\n" not in told and str(file) in told, (value, told)


@pytest.mark.parametrize(
    ("place", "bad"),
    [
        (("published", "tolerance"), ["abc", 0, float("nan"), 10**400, None, True]),
        (("published", "sets"), [1.5, 0, "x", None]),
        (("published", "source"), [5, None, "a\nb"]),
        (("minima", 0, "value"), ["abc", None, float("inf")]),
        (("minima", 0, "metric"), ["abc", 5, ["fd_digits"], None]),
        (("minima", 0, "group"), ["B", None, ["A"]]),
        (("minima", 0, "source"), [5, "a\u2028b"]),
        (("rows", 0, "set"), [5, "schedule.num_steps=4", ["a=1\nb=2"], [5], None]),
        (("rows", 0, "published"), [5, {"fd_digits": "abc"}, {"abc": 1.0}, {"fd_digits": float("nan")}]),
        (("rows", 0, "group"), [1.5, ["A"], {"a": 1}, "a\nb"]),
    ],
)  # fmt: skip
def test_nested_entries_of_a_table(place: tuple[str | int, ...], bad: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    for value in bad:
        content = yaml.safe_load(yaml.safe_dump(TABLE))
        inner = content
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        file.write_text(yaml.safe_dump(content))
        with pytest.raises(UserError) as caught:
            read_table(file)
        assert "\n" not in str(caught.value) and str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"rows": [[], {"set": [], "group": 1.5}]}, r"rows\[1\].group is 1.5; expected one of: str, int"),
        ({"rows": [{"set": [3]}]}, r"rows\[0\].set\[0\] is 3; expected str"),
        ({"rows": [{"sett": []}]}, r"a row with neither 'set'.*rows\[0\]"),
        ({"rows": [{"set": [], "gruop": 1}]}, r"unknown field in rows\[0\] 'gruop'; did you mean 'group'"),
        ({"rows": [{"set": [], "published": {"fdi": 1.0}}]}, "unknown metric 'fdi'"),
        ({"rows": [{"set": [], "published": {"fid": "x"}}]}, r"rows\[0\].published.fid is 'x'"),
        ({"minima": [{"group": "A", "metric": "fid"}]}, r"minima\[0\].value is missing"),
        ({"minima": [{"group": "A", "of": 1}]}, r"unknown field in minima\[0\] 'of'"),
        ({"published": {**TABLE["published"], "set": 1}}, "unknown field in published 'set'"),
        ({"published": {**TABLE["published"], "sets": 0}}, "published.sets is 0; expected a number above 0"),
        ({"titel": "x"}, "unknown entry 'titel'; did you mean 'title'"),
        ({"figure": "step"}, "unknown figure 'step'; did you mean 'steps'"),
        ({"sheet_nfe": 10**400}, "sheet_nfe is 1000.*; expected float"),
    ],
)
def test_places_of_mistakes_in_a_table(entry: dict[str, Any], told: str, tmp_path: Path) -> None:
    check("table", yaml.safe_dump({**TABLE, **entry}).encode(), told, tmp_path)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"base": ["track=digits", "metrics.names=[kid_digits]"]}, "shows 'fd_digits', but metrics.names is"),
        ({"minima": [{**TABLE["minima"][0], "metric": "fid"}]}, "shows 'fid', but metrics.names is"),
        ({"rows": [[], ["seeds=0-99"]], "minima": []}, "differ in seeds: 0-999 in .* 0-99 in"),
        ({"rows": [[], ["metrics.num_groups=7"]], "minima": []}, "differ in metrics.num_groups: 50 in .* 7"),
        ({"rows": [[], ["metrics.names=[fd_digits]"]], "minima": []}, "differ in metrics.names"),
    ],
)
def test_rows_that_could_not_stand_in_one_table(
    entry: dict[str, Any], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**TABLE, **entry}))
    assert main(["plan", f"table={file}", f"out={tmp_path / 'runs'}"]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and re.search(told, said)
    assert not (tmp_path / "runs").exists()


def test_a_grid_of_too_many_cells(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    axes = {
        name: list(range(1000)) for name in ("schedule.num_steps", "correction.w_con", "correction.w_stiff")
    }
    file.write_text(yaml.safe_dump({**GRID, "axes": axes}))
    with pytest.raises(UserError, match="has 1,000,000,000 cells; at most 10,000"):
        read_grid(file)


@pytest.mark.parametrize("value", ["a\nb", "a\u2028b", "a\x85b", "a\rb", "\x1b[2J", "a\0b"])
def test_settings_with_line_breaks(value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sweep.manifest"
    assert main(["plan", f"--manifest={path}", f"model.name={value}"]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and "has a line break or control character" in said
    assert not path.exists()


@pytest.mark.parametrize("number", ["\u00b2", "1" * 5000, "-1", "0", "1.5", "\u0663"])
def test_numbers_of_commands(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["table", f"sets={number}"],
        ["search", f"factor={number}"],
        ["plan", f"seeds=0-{number}x"],
    ):
        assert main(words) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("header", "told"),
    [("", "does not say what"), (" ''", "does not say what"), (" table='x", "has No closing quotation")],
)
def test_manifest_headers(header: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sweep.manifest"
    path.write_text(f"{HEADER}{header}\nrun seeds=0-39\n")
    for words in (["task", str(path)], ["task", str(path), "0"]):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert told in said and len(said.splitlines()) == 1
