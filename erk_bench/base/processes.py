"""Processes: children that end when their parent does, however it ends, and names for processes."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

LAUNCHER = "ERK_BENCH_LAUNCHER"  # number of the process to end with, where a script stands between
LOOK_EVERY_S = 0.5
ELSEWHERE_S = 24 * 3600.0  # a file of another machine that nobody has touched for so long has no writer
PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Called in a spawned process: end at once when the parent has ended, even if it was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a spawned process has a parent to end with"
    assert parent.pid is not None
    if not parent.is_alive():
        os._exit(1)
    end_with(parent.pid)


def end_with_launcher(environment: Mapping[str, str] = os.environ) -> None:
    """Called by a command: end with torchrun where that started it. What a shell started may outlive it."""
    if "TORCHELASTIC_RUN_ID" in environment:
        with suppress(ValueError):
            end_with(int(environment.get(LAUNCHER) or os.getppid()))


def end_with(process: int) -> None:
    """End this process as soon as that one, its parent or further up, has ended."""
    started = _start(process)
    parent = os.getppid()
    if process == parent and sys.platform == "linux":
        # At once, even while this process is in a long computation; elsewhere the thread below must do.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def gone() -> bool:
        return os.getppid() != parent or not _runs(process) or _start(process) != started

    def watch() -> None:
        while not gone():
            time.sleep(LOOK_EVERY_S)
        os._exit(1)

    if process != parent and not _runs(process):
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def identity() -> str:
    """This process, in a file's name: MACHINE-PROCESS-START."""
    return f"{machine()}-{os.getpid()}-{_start(os.getpid())}"


def has_ended(who: str, last_seen: float) -> bool:
    """Whether the process of an `identity` has surely ended.

    last_seen: when it last did something, in seconds. Of a process on another machine we only see that: it
    counts as ended after a day.
    """
    words = re.fullmatch(r"([0-9a-f]{8})-([0-9]+)-([0-9]+)", who)
    if words is None:
        return False
    where, number, start = words.groups()
    if where != machine():
        return time.time() - last_seen > ELSEWHERE_S
    return not _runs(int(number)) or _start(int(number)) != start


@functools.cache
def machine() -> str:
    """Where process numbers mean the same: a machine since it was started, or a container on it."""
    parts = [os.uname().nodename]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:8]


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    with suppress(OSError, IndexError):  # a zombie has ended
        stat = Path(f"/proc/{process}/stat").read_bytes()
        return stat.rpartition(b") ")[2].split()[0] not in (b"Z", b"X")
    return True


def _start(process: int) -> str:
    """When a process was started, in ticks (0: not known): numbers of processes are given again."""
    with suppress(OSError, IndexError):
        stat = Path(f"/proc/{process}/stat").read_bytes()
        return stat.rpartition(b") ")[2].split()[19].decode()
    return "0"
