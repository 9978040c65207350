"""The lock file: the sha256 of every fetched file, one a line."""

from __future__ import annotations

import re
from pathlib import Path

from erk_bench.base.errors import UserError
from erk_bench.base.files import write_atomic


class LockFile:
    """Lines of 'SHA256  ADDRESS'; the hash may be a prefix of 8 or more digits where no more is published."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, str]:
        """Hash by address. Raises UserError for a line that is neither a comment nor an entry."""
        try:
            lines = self.path.read_text().splitlines()
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the lock file '{self.path}': {error}; check it") from error
        entries = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            match = re.fullmatch(r"([0-9a-f]{8,64})  (\S+)", line)
            if match is None:
                raise UserError(
                    f"line {number} of '{self.path}' is '{line}'; expected 'SHA256  ADDRESS': put it right, "
                    "or delete it to record the hash anew"
                )
            entries[match[2]] = match[1]
        return entries

    def record(self, address: str, sha256: str) -> None:
        """Add or complete the entry of `address`, keeping comments and other lines."""
        entry = f"{sha256}  {address}"
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        kept = [line for line in lines if line.split("  ")[-1] != address]
        write_atomic(self.path, ("\n".join([*kept, entry]) + "\n").encode())
