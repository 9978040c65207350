"""Values as JSON for the browser: unpacked again they are what they were, and no text can end a script."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import numpy as np
import pytest

from erk_bench.reporting.site.packing import LARGEST, NO_NUMBER, flat, packed, script_json, shared


def unpacked(pack: list[Any]) -> np.ndarray:
    """As site.js does it."""
    content = np.frombuffer(base64.b64decode(pack[1]), dtype=np.uint8).reshape(-1, 3).astype(np.int64)
    whole = content[:, 0] | (content[:, 1] << 8) | (content[:, 2] << 16)
    whole = np.where(whole >= 2**23, whole - 2**24, whole)
    return np.where(whole == NO_NUMBER, np.nan, whole / LARGEST * pack[0])


@pytest.mark.parametrize("scale", [1e-9, 0.03, 7e5])
def test_replicates_come_back_to_24_bits(scale: float) -> None:
    values = 2.5 + scale * np.random.RandomState(0).randn(100)
    back = unpacked(packed(values.tolist(), 2.5))
    assert np.abs(back - (values - 2.5)).max() <= 0.51 * np.abs(values - 2.5).max() / LARGEST
    assert len(packed(values.tolist(), 2.5)[1]) == 400  # four characters a value


def test_equal_replicates_stay_equal_and_what_is_no_number_stays_none() -> None:
    assert packed([1.5, 1.5], 1.5)[0] == 0 and not unpacked(packed([1.5, 1.5], 1.5)).any()
    back = unpacked(packed([1.0, math.nan, 3.0, math.inf, -math.inf], 2.0))
    assert back[[0, 2]].tolist() == [-1.0, 1.0] and np.isnan(back[[1, 3, 4]]).all()
    assert unpacked(packed([1.0, -1.0], math.nan)).tolist() == [1.0, -1.0]


def test_no_text_ends_a_script() -> None:
    hostile = {
        "</script><script>alert(1)</script>": ["<!--", "&amp;", "\u2028\n\"'", "\udcff"],
        "x": math.nan,
    }
    text = script_json(hostile)
    assert text.isascii() and not set("<>&\n") & set(text)
    assert json.loads(text) == {**hostile, "x": "nan"}
    assert json.loads(script_json([math.inf, -math.inf, (1, 2)])) == ["inf", "-inf", [1, 2]]


def test_what_most_have_in_common_stands_once() -> None:
    contents = [{"a": 1, "b": [1]}, {"a": 1, "b": [2], "c": None}, {"a": 2, "b": [1]}, {"a": 1}]
    found = shared(contents)
    assert found.base == {"a": 1} and "c" not in found.base
    for content, (own, lacks) in zip(contents, found.rest, strict=True):
        rebuilt = {key: value for key, value in found.base.items() if key not in lacks} | own
        assert rebuilt == content
    several = shared([{"a": True}, {"a": 1}, {"b": 1}])  # True is not 1, and nobody has most of a
    assert several.base == {} and several.rest[2] == ({"b": 1}, [])
    assert shared([{"a": 1}, {"a": 1}, {}]).rest[2] == ({}, ["a"])
    assert flat({"a": {"b": {"c": 1}, "d": {}}, "e": []}) == {"a.b.c": 1, "a.d": {}, "e": []}
