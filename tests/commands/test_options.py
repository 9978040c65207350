"""Options written once: types, defaults, three spellings, wrong values."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Any

import pytest

from erk_bench.base.errors import UserError
from erk_bench.cli import main
from erk_bench.commands import COMMANDS
from erk_bench.commands.command import Command, given
from erk_bench.commands.options import (
    Bounds,
    Choice,
    Flag,
    Names,
    Number,
    OptionType,
    Text,
    Whole,
    Wholes,
    option,
)
from erk_bench.commands.plan import PlanOptions
from erk_bench.commands.settings import SWEEP


@dataclass(frozen=True, kw_only=True)
class Options:
    """One of each kind."""

    from_: str | None = option(Text("FOLDER"), "a text", None)
    form: str = option(Choice("png", "npz"), "a choice", "png")
    dry_run: bool = option(Flag(), "a flag", False)
    views: bool = option(Flag(), "another flag", True)
    sets: int = option(Whole(), "a count", 1)
    first: int | None = option(Whole(), "a count that need not be given", None)
    seed: int = option(Whole(0), "a count from 0", 3)
    weight: float = option(Number("W"), "a number", 0.5)
    speed: float | None = option(Number("S", positive=True, expected="a speed"), "a number above 0", None)
    seeds: tuple[int, ...] = option(Wholes(0, "{name} has '{word}'"), "counts", (0,))
    names: tuple[str, ...] = option(Names("NAME,..."), "names", ("a", "b"))
    bounds: tuple[float, float] = option(Bounds(10), "bounds", (0.5, 2.0))


def _run(options: Options, words: list[str]) -> int:
    return 0


COMMAND = Command(name="any", summary="any", run=_run, options=Options, settings=SWEEP, examples="")

GOOD = [
    ("from", "results/a=b", "from_", "results/a=b"),
    ("from", "", "from_", None),
    ("form", "npz", "form", "npz"),
    ("dry_run", "true", "dry_run", True),
    ("dry_run", "True", "dry_run", True),
    ("views", "false", "views", False),
    ("sets", "12", "sets", 12),
    ("first", "", "first", None),
    ("seed", "0", "seed", 0),
    ("weight", "1e-3", "weight", 0.001),
    ("speed", "150", "speed", 150.0),
    ("seeds", "3, 5", "seeds", (3, 5)),
    ("names", "x,y,", "names", ("x", "y")),
    ("bounds", "0:1", "bounds", (0.0, 1.0)),
]


@pytest.mark.parametrize(("name", "text", "field", "value"), GOOD)
def test_three_spellings(name: str, text: str, field: str, value: Any) -> None:
    dashed = name.replace("_", "-")
    for words in (
        [f"{name}={text}"], [f"--{name}={text}"], [f"--{name}", text], [f"--{dashed}={text}"],
        ["seeds=9", f"--{name}", text, "solver=heun"],
    ):  # fmt: skip
        options, others = COMMAND.parse(words)
        found = getattr(options, field)
        assert found == value and type(found) is type(value)
        assert others == [word for word in words if word == "solver=heun"]
        for other in dataclasses.fields(Options):
            if other.name not in (field, "seeds"):
                assert getattr(options, other.name) == other.default


BAD = [
    ("form", "tiff", "unknown form 'tiff'. Known: png, npz"),
    ("form", "pgn", "did you mean 'png'?"),
    ("dry_run", "yes", "dry_run is 'yes'; expected true or false"),
    ("views", "", "views is ''; expected true or false"),
    ("sets", "0", "sets is '0'; expected a whole number from 1 on"),
    ("sets", "-1", "sets is '-1'"),
    ("sets", "1" * 19, "at most 18 digits"),
    ("sets", "1.0", "sets is '1.0'"),
    ("sets", "²", "sets is '²'"),
    ("sets", "٣", "sets is '٣'"),
    ("sets", "", "sets is ''"),
    ("first", "x", "first is 'x'"),
    ("seed", "1_0", "seed is '1_0'; expected a whole number from 0 on"),
    ("weight", "-1", "weight is '-1'; expected a number, 0 or more"),
    ("weight", "nan", "weight is 'nan'"),
    ("weight", "inf", "weight is 'inf'"),
    ("speed", "0", "speed is '0'; expected a speed"),
    ("seeds", "0,x", "seeds has 'x'"),
    ("seeds", "", "seeds has ''"),
    ("bounds", "2:1", "bounds is '2:1'; expected LOW:HIGH, at most 10, for example bounds=0.1:2.5"),
    ("bounds", "2:11", "bounds is '2:11'"),
    ("bounds", "1", "bounds is '1'"),
    ("bounds", "0:inf", "bounds is '0:inf'"),
]


@pytest.mark.parametrize(("name", "text", "told"), BAD)
def test_wrong_values_name_what_is_expected(name: str, text: str, told: str) -> None:
    flag = isinstance(COMMAND.rows[name].type, Flag)
    for words in ([f"{name}={text}"], [f"--{name}={text}"], *([] if flag else [[f"--{name}", text]])):
        with pytest.raises(UserError) as error:
            COMMAND.parse(words)
        assert told in str(error.value)


def test_the_last_word_counts() -> None:
    assert COMMAND.parse(["sets=2", "--sets", "3", "sets=4"])[0].sets == 4


def test_a_flag_needs_no_value() -> None:
    options, others = COMMAND.parse(["--dry-run", "solver=heun", "--views", "false"])
    assert options.dry_run and not options.views and others == ["solver=heun"]
    assert COMMAND.parse(["--dry_run"])[0].dry_run


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--sets"], "--sets needs a value: --sets VALUE"),
        (["--dry_run", "maybe"], "--dry_run is 'maybe'; write --dry_run alone for yes, or --dry_run=false"),
        (["--sest", "3"], "unknown option '--sest'; did you mean '--sets'?"),
        (["sest=3"], "unknown setting 'sest'; did you mean 'sets'?"),
        (["sets"], "'sets' is no setting; write KEY=VALUE"),
    ],
)
def test_wrong_spellings(words: list[str], told: str) -> None:
    with pytest.raises(UserError) as error:
        COMMAND.parse(words)
    assert told in str(error.value)


@pytest.mark.parametrize("name", COMMANDS)
def test_rows_are_complete_and_typed(name: str) -> None:
    """Every option has one sentence, and a default of its own type."""
    command = COMMANDS[name]
    hints = typing.get_type_hints(command.options)
    for field in dataclasses.fields(command.options):
        kind, about = field.metadata["kind"], field.metadata["about"]
        assert isinstance(kind, OptionType) and len(about.split()) >= 2 and not about.endswith("."), (
            field.name
        )
        if field.default is dataclasses.MISSING:
            continue
        hint = hints[field.name]
        allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        assert type(field.default) in {typing.get_origin(each) or each for each in allowed}, field.name
        text = kind.show(field.default)
        if field.default is not None:
            row = command.rows[field.name.removesuffix("_")]
            assert kind.convert(text, row, None) == field.default


def test_needed_options(capsys: pytest.CaptureFixture[str]) -> None:
    example = "for example source=imagenet/val resolution=512 to=val512.safetensors"
    for words, missing in (
        ([], "source"), (["source=x"], "resolution"), (["source=x", "resolution=8", "to="], "to"),
    ):  # fmt: skip
        assert main(["reference", *words]) == 2
        assert f"{missing} is missing; {example}" in capsys.readouterr().err


def test_given_options_are_typed_again() -> None:
    options = PlanOptions(table="digits", rows="0-3", sets=2, simulate=(8, 64), throughput=1.5)
    assert given(options, ("table", "rows", "sets", "simulate", "throughput", "grid")) == [
        "table=digits", "rows=0-3", "sets=2", "throughput=1.5", "simulate=8,64",
    ]  # fmt: skip
