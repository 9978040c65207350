"""Child processes that end when their parent does, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """Called in a spawned process: end at once when the parent has ended, even if it was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a spawned process has a parent to end with"
    sentinel = parent.sentinel

    def watch() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
