"""Values as small JSON for the browser: what records have in common once, replicates as 24-bit numbers."""

from __future__ import annotations

import base64
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

LARGEST = 2**23 - 1  # of a 24-bit number
NO_NUMBER = -(2**23)  # stands for a value that is not finite
# What HTML could take for the end of a script, and what old JavaScript took for the end of a line.
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def script_json(value: Any) -> str:
    """JSON that can stand in a script of a page: ASCII, no '<'; numbers that are not finite as texts."""
    text = json.dumps(plain(value), separators=(",", ":"), allow_nan=False)
    for sign, escape in ESCAPES.items():
        text = text.replace(sign, escape)
    return text


def plain(value: Any) -> Any:
    """Nested values as JSON has them: NaN and infinities become 'nan', 'inf' and '-inf'."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def packed(values: Sequence[float], center: float) -> list[Any]:
    """[scale, base64]: deviations from `center`, each a 24-bit number (little-endian) times scale / LARGEST.

    Equal values of equal centers stay equal. A value that is not finite becomes NO_NUMBER.
    """
    deviations = np.array(values, dtype=np.float64) - (center if math.isfinite(center) else 0.0)
    known = np.isfinite(deviations)
    scale = float(np.abs(deviations[known]).max(initial=0.0))
    whole = np.zeros(len(deviations), dtype="<i4")
    if scale > 0:
        whole[known] = np.rint(deviations[known] / scale * LARGEST).astype("<i4")
    whole[~known] = NO_NUMBER
    content = whole.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    return [scale, base64.b64encode(content).decode()]


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names; an empty mapping stays as it is."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


class Shared(NamedTuple):
    """Records by what is not common. base: the common values. rest: of each record, (own values, keys that it
    lacks)."""

    base: dict[str, Any]
    rest: list[tuple[dict[str, Any], list[str]]]


def shared(contents: Iterable[Mapping[str, Any]]) -> Shared:
    """The values that most contents have under a key, once, and what each has in their stead."""
    several = list(contents)
    texts = [{key: json.dumps(plain(value)) for key, value in content.items()} for content in several]
    base: dict[str, Any] = {}
    common: dict[str, str] = {}
    for key in dict.fromkeys(key for content in several for key in content):
        count = Counter(text[key] for text in texts if key in text)
        most, number = count.most_common(1)[0]
        if 2 * number > len(several):
            common[key] = most
            base[key] = json.loads(most)
    rest = []
    for content, text in zip(several, texts, strict=True):
        own = {key: value for key, value in content.items() if common.get(key) != text[key]}
        rest.append((own, [key for key in base if key not in content]))
    return Shared(base, rest)
