"""Other systems are told in one sentence, however the package is started."""

from __future__ import annotations

import subprocess
import sys

import pytest

from erk_bench.base.platforms import SUPPORTED, check

FAKES = {
    "another system": "sys.platform = 'win32'",
    "no file locks": "sys.modules['fcntl'] = None",
    "no signals": "import signal; del signal.SIGUSR2",
}
STARTS = {
    "import": "import erk_bench",
    "command": "from erk_bench.cli import entry; entry()",
    "module": "import runpy; runpy.run_module('erk_bench.cli', run_name='__main__')",
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("fake", FAKES)
def test_one_sentence_elsewhere(fake: str, start: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {FAKES[fake]}; {STARTS[start]}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("erk-bench: it runs on Linux and macOS, and this is '")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("platform", SUPPORTED)
def test_both_systems_pass(platform: str) -> None:
    check(platform)
