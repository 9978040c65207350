"""Texts and JSON of other people's files."""

from __future__ import annotations

import json

import pytest

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.untrusted import MAX_DEPTH, MAX_SHOWN, parse_json, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢 'quoted'", "plain é 漢 'quoted'"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31mred\x07\x00\x7f\x9b", r"\x1b[31mred\x07\x00\x7f\x9b"),
        ("\u202egood\u2028\u200b\ufeff", r"\u202egood\u2028\u200b\ufeff"),
        ("\ud800 \U000e0041", r"\ud800 \U000e0041"),
    ],
)
def test_what_is_not_printable_becomes_an_escape(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown
    assert str(UserError(text)) == shown
    assert shown in str(unknown_name("solver", text, ["heun"]))
    visible(text).encode()


def test_long_texts_lose_their_middle() -> None:
    text = visible("begin" + "x" * 10**6 + "end")
    assert len(text) < MAX_SHOWN + 50 and text.startswith("begin") and text.endswith("end")
    assert "characters) ..." in text


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10**6,
        "[" * 65 + "]" * 65,
        '{"a":' * 5000 + "1" + "}" * 5000,
        "{",
        "",
        "1" * 5000,
        b"\xff\xfe\x00",
    ],
)
def test_damaged_and_deep_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_json_is_read_up_to_the_depth() -> None:
    content = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    with pytest.raises(ValueError, match="deeper"):
        parse_json("[" + content + "]")
    assert json.dumps(parse_json(content)) == content
    assert parse_json('{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}
