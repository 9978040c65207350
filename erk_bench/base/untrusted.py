"""What comes from other people's files: bounded JSON, and texts that cannot steer a terminal."""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 64  # of JSON; our own has less than ten
MAX_SHOWN = 3000  # characters of an error text


def visible(text: str) -> str:
    """`text` as one line of printable characters: others become escapes such as \\n, \\x1b, \\u202e.

    A text of more than MAX_SHOWN characters loses its middle.
    """
    if len(text) > MAX_SHOWN:
        half = MAX_SHOWN // 2
        text = f"{text[:half]} ... ({len(text) - 2 * half:,} characters) ... {text[-half:]}"
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def parse_json(text: str | bytes) -> Any:
    """The content of a JSON text. Raises ValueError, and no other error, if it is damaged or too deep."""
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"values nested deeper than {MAX_DEPTH}") from error
    layer = [content]
    for _ in range(MAX_DEPTH):
        layer = [
            item
            for value in layer
            if isinstance(value, (dict, list))
            for item in (value.values() if isinstance(value, dict) else value)
        ]
        if not layer:
            return content
    raise ValueError(f"values nested deeper than {MAX_DEPTH}")
