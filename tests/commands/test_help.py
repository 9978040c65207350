"""Help: drawn from the options and configuration files, explains each of them, and lists the models once."""

from __future__ import annotations

import re
import shlex

import pytest
import yaml

from erk_bench.base.config_files import config_files
from erk_bench.base.errors import UserError
from erk_bench.cli import main
from erk_bench.commands import COMMANDS
from erk_bench.commands.compose import compose_config, run_spec
from erk_bench.commands.help import command_help, topic_help
from erk_bench.commands.options import OptionType
from erk_bench.commands.settings import RUN, groups, names

ON_RUNS = [name for name, command in COMMANDS.items() if command.settings and command.settings.file == "run"]
MODELS = groups()["model"]


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_main_help_lists_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_command_help_teaches(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Usage, every option with its meaning and its true default, examples."""
    assert main([name, "--help"]) == 0
    printed = capsys.readouterr().out
    assert main(["help", name]) == 0
    assert capsys.readouterr().out == printed
    assert printed.startswith(f"usage: erk-bench {name}") and f"examples:\n  erk-bench {name}" in printed
    usage, flat = printed.split("\n\n")[0], " ".join(printed.split())
    for option, row in COMMANDS[name].rows.items():
        assert isinstance(row.type, OptionType)
        default = "" if row.required else row.type.show(row.default)
        assert f"{option}={row.type.metavar}" in " ".join(usage.split())
        assert f" {option}={default or row.type.metavar} {row.help}" in flat
    assert max(map(len, printed.splitlines())) <= 120


@pytest.mark.parametrize("name", ON_RUNS)
def test_help_shows_the_settings_of_a_run(name: str) -> None:
    """Every choice but the models, every setting with what it means, and the defaults that a run has."""
    printed, examples = command_help(COMMANDS[name]).split("examples:\n")
    assert examples
    for group, choices in groups().items():
        assert all((f" {group}={choice} " in printed) == (group != "model") for choice in choices), group
    lines = printed.split("settings, with the defaults")[1].strip().splitlines()
    for number, line in enumerate(lines):
        match = re.match(r"  ([\w.]+)=(\S+)(?: +(\S.*))?$", line)
        if match:
            assert match[3] or lines[number + 1].startswith(" " * 20), line
    spec = run_spec([])
    for key, value in {"block_size": 125, "seeds": "0-999", "samples": "blocks"}.items():
        assert getattr(spec, key) == value and f"  {key}={value} " in printed
    content = compose_config("run", ["guidance=cfg", "correction=erk_guid", "tracker=wandb"])
    for key in names(content):
        if not key.startswith("model.") and not key.endswith(".name") and key != "track":
            assert re.search(rf"^  {re.escape(key)}=", printed, re.MULTILINE), key
    assert "guidance.weight=1.25 " in printed  # the default model's own


@pytest.mark.parametrize("words", [["--help", "models"], ["run", "--help", "models"], ["help", "model"]])
def test_models_are_listed_once(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert re.findall(r"^  model=(\S+)", printed, re.MULTILINE) == MODELS and len(MODELS) >= 46
    assert "published FID 2.23" in printed
    for name, command in COMMANDS.items():
        text = command_help(command)
        assert sum(model in text for model in MODELS) <= 5, name  # those of examples and of tracks
        assert ("'erk-bench --help models' lists them" in text) == (name in ON_RUNS)


@pytest.mark.parametrize("group", [group for group in groups() if group not in ("model", "track")])
def test_every_choice_shows_its_settings(group: str) -> None:
    printed = topic_help(group)
    for choice in groups()[group]:
        part = printed.split(f"\n  {group}={choice}")[1].split("\n\n")[0]
        for key, value in yaml.safe_load(config_files(group)[choice].read_text()).items():
            names = [f"{key}.{inner}" for inner in value] if isinstance(value, dict) and value else [key]
            for name in names:
                assert name == "name" or f"    {group}.{name}=" in part


def test_unknown_topic() -> None:
    with pytest.raises(UserError, match="unknown topic of help 'modles'; did you mean 'models'"):
        topic_help("modles")


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_can_be_typed(name: str) -> None:
    """Each example parses, and the settings of runs compose."""
    command = COMMANDS[name]
    found = 0
    for line in command.examples.replace("\\\n", " ").splitlines():
        if f"erk-bench {name}" not in line and f"erk_bench.cli {name}" not in line:
            continue
        words = shlex.split(line, comments=True)
        _, others = command.parse(words[words.index(name) + 1 :])
        found += 1
        if command.settings is RUN and "my.safetensors" not in line:
            assert run_spec(others, fetch=False)
    assert found
