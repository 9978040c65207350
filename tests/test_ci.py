"""What CI runs: the README's commands in its order, in one clone; tests of results again at the end."""

from __future__ import annotations

import re

from tests.isolation import ROOT


def readme_commands() -> list[str]:
    """Every line of the README's code blocks, without comments, with continued lines joined."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line.partition(" #")[0] for block in blocks for line in block.splitlines()]
    return [" ".join(line.split()).removeprefix(".venv/bin/") for line in lines]


def ci_commands() -> list[str]:
    """What .ci/run runs, in order."""
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    commands = [line.removeprefix("run ") for line in lines if line.startswith("run ")]
    return [command.removeprefix("env ").removeprefix(".venv/bin/") for command in commands]


def test_ci_begins_with_the_readmes_commands_in_its_order() -> None:
    """All but those that get and enter the clone; CI is in one."""
    readme = [line for line in readme_commands() if not line.startswith(("git clone", "source"))]
    assert readme[:2] == ["make reproduce-table", "make test"]
    assert ci_commands()[: len(readme)] == readme


def test_ci_ends_with_the_tests_of_results_again() -> None:
    commands = ci_commands()
    assert commands[-1] == """make test ARGS="-m 'results and not slow'\"""" and {
        "make test-slow",
        "make test-slurm",
        "make views",
    } < set(commands)
