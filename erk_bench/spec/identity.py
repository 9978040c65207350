"""The identity of what is computed: a hash of the fields that change the result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from erk_bench.base.errors import UserError

# Raised by every change that alters samples; records of different protocols are never mixed.
PROTOCOL = 1


def check(condition: bool, message: str) -> None:
    """Raise UserError with the message unless the condition holds."""
    if not condition:
        raise UserError(message)


def digest_of(fields: Mapping[str, Any]) -> str:
    """sha256 over the identity fields of a run, as plain values, and PROTOCOL."""
    content = {"protocol": PROTOCOL, **fields}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
