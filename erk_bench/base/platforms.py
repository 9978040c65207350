"""The systems that erk-bench runs on. Importing this refuses any other, before another import fails there."""

from __future__ import annotations

import importlib.util
import signal
import sys

SUPPORTED = ("linux", "darwin")


def check(platform: str) -> None:
    """Raise SystemExit with one sentence for another system, or for one without file locks and signals."""
    complete = importlib.util.find_spec("fcntl") is not None and hasattr(signal, "SIGUSR2")
    if platform not in SUPPORTED or not complete:
        raise SystemExit(
            f"erk-bench: it runs on Linux and macOS, and this is '{platform}' without the file locks and "
            "signals that it needs; on Windows, install it in the Windows Subsystem for Linux"
        )


check(sys.platform)
