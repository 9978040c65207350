"""Every command and snippet of README.md and docs/ runs, with few images; what cannot run here is listed."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from diffusers import EDMEulerScheduler
from PIL import Image

from erk_bench.base.config_files import searching
from erk_bench.base.errors import UserError
from erk_bench.cli import main
from erk_bench.commands import COMMANDS, config_dir
from erk_bench.commands.compose import run_spec
from erk_bench.digits.data import load_digits
from tests.isolation import ROOT

PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
WEIGHTS = ROOT / "erk_bench/digits/weights/denoiser.safetensors"
KINDS = {"bash", "python", "yaml", "text"}
RUN = (
    "seeds=0-39", "block_size=20", "workers=1", "device=cpu", "metrics.num_groups=5",
    "metrics.kid_subset_size=20", "metrics.converged.num_steps=8",
)  # fmt: skip
# Words put behind a command's own, so that it takes a second or so.
SMALL: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("run", "generate", "evaluate", "export"), RUN),
    "table": (*RUN, "rows=0,1"),
    "grid": (*RUN, "seeds=0-19", "schedule.num_steps=3"),
    "search": (*RUN, "first=20"),
    "schedule": (*RUN, "images=4", "teacher=12"),
    "analyze": (*RUN, "images=2", "iterations=3", "schedule.num_steps=4"),
    "score": ("metrics=fd_digits", "num_groups=5", "workers=1", "device=cpu"),  # for want of Inception
    "plan": ("throughput=1", "block_size=20"),
}
# What is not on this machine. A line that names it must fail for want of a file, and for nothing else: all of
# its other words are checked before. ('plan' needs no files.)
NOT_HERE = {
    r"imagenet512|edm2-|table=(imagenet\d+/)?(edm2|table\d)\b|figure4": "EDM2's and EDM's weights",
    r"imagenet256|(dit|sit)-xl-2|SiT-XL-2": "the weights of diffusion transformers",
    r"resolution=(64 to=|512)|=VIRTUAL": "Inception's and DINOv2's weights",
    r"qualitative": "pipelines of a hub",
    r"images=(cifar10/train|FOLDER)": "pictures to train on, and a GPU",
    r"my-(edm2|pixels)\.pkl|diffusers:FOLDER": "a checkpoint of the reader's",
}
MISSING = (
    "not in the cache, and offline=true", "no file at", "not here; give one", "is not known yet",
    "cannot load the pipeline", "does not exist; check the path", "torch sees no GPU",
)  # fmt: skip
# Lines that nothing here runs, and why.
OUTSIDE = {
    "git clone": "CI is in a clone",
    "cd erk-bench": "CI is in a clone",
    "source .venv/bin/activate": "it is",
    "make setup": ".ci/run",
    "make test": ".ci/run",
    "mkdir": "a program of the system",
    "export": "for the lines after it",
    "wandb": "needs an account",
    "tensorboard": "serves until it is stopped",
    "eval": "tests/commands/test_completion.py",
}


class Block(NamedTuple):
    """A fenced block; line: where it begins."""

    page: str
    line: int
    kind: str
    text: str


def blocks(page: str) -> Iterator[Block]:
    text = (ROOT / page).read_text()
    for match in re.finditer(r"^ *```(\S*)\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL):
        yield Block(page, text.count("\n", 0, match.start()) + 1, match[1], match[2])


ALL = [block for page in PAGES for block in blocks(page)]


def of_kind(kind: str) -> list[Any]:
    return [pytest.param(each, id=f"{each.page}:{each.line}") for each in ALL if each.kind == kind]


def lines(block: Block) -> Iterator[list[str]]:
    """Its commands as words, without variables before them; continued lines are one."""
    for line in re.split(r"\n| && ", block.text.replace("\\\n", " ")):
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        if words:
            yield words


@pytest.mark.parametrize("page", PAGES)
def test_a_page_begins_with_its_command_and_hides_none(page: str) -> None:
    """Each block is fenced and says what it is; an indented one would be run by nothing."""
    text = (ROOT / page).read_text()
    found = list(blocks(page))
    assert text.count("```") == 2 * len(found) and {block.kind for block in found} <= KINDS
    rest = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert not re.search(r"\n\n {4,}(erk-bench|make|python|net) ", rest)
    assert page in ("README.md", "docs/index.md") or re.match(r"# .*\n\n```(bash|python)\n", text)


@pytest.mark.parametrize("block", of_kind("bash"))
def test_commands_have_such_options(block: Block) -> None:
    furnish(block.text.replace("results", ""))
    for words in lines(block):
        if words[0] == "erk-bench" and words[1] in COMMANDS and "--help" not in words:
            folders, others = config_dir.parted(words[2:])
            made_before = [word for word in others if word != "schedule=gits.yaml"]
            with searching(folders):
                assert COMMANDS[words[1]].parse(made_before), words


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_sentences_have_such_options(page: str) -> None:
    """Those in full: no capitals that stand for something, no dots, and files that are there."""
    for line in re.findall(r"`erk-bench ([a-z-]+ [^`]+)`", (ROOT / page).read_text()):
        words = shlex.split(line)
        if words[0] in COMMANDS and not re.search(r"[A-Z]{3,}|\.\.\.|my_|my-|--help", line):
            assert COMMANDS[words[0]].parse(words[1:]), words


def write_images(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, digit in enumerate(load_digits().images[:100, 0].numpy()):
        Image.fromarray(digit).save(folder / f"{number:04}.png")


def write_array(file: Path) -> None:
    images = load_digits().images[:100].permute(0, 2, 3, 1).expand(-1, -1, -1, 3)
    np.savez(file, arr_0=images.numpy())


def write_settings(folder: Path) -> None:
    """What docs/settings.md says of such a folder, with files of that page."""
    for name in ("model/mine", "solver/ralston"):
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        shutil.copy(Path("my_model.yaml" if name == "model/mine" else "my_solver.yaml"), path)
    shutil.copy(WEIGHTS, folder / "model/net.safetensors")
    shutil.copy("my_solver.py", folder / "solver")


# What pages speak of, and how it is made.
THINGS: dict[str, Callable[[Path], object]] = {
    "my_model.yaml": lambda path: shutil.copy(WEIGHTS, "net.safetensors"),
    "my_track.yaml": lambda path: shutil.copy(WEIGHTS, "net.safetensors"),
    "my_configs": write_settings,
    "real_images/": write_images,
    "IMAGES": write_images,
    "imagenet/val": write_images,
    "samples.npz": write_array,
    "VIRTUAL_imagenet256_labeled.npz": write_array,
    "levels.txt": lambda path: path.write_text("80 10 1 0.1\n"),
    "results": lambda path: shutil.copytree(ROOT / "results/records/digits", path / "records/digits"),
}


def furnish(text: str) -> None:
    """Put into the working folder the files that a block speaks of."""
    for block in ALL:  # those that a page shows in full
        name = re.match(r"# (\w+\.(yaml|py))\b", block.text)
        if name:
            Path(name[1]).write_text(block.text)
    for path in (ROOT / "examples").glob("*.py"):
        shutil.copy(path, ".")
    for name, make in THINGS.items():
        if name in text:
            make(Path(name))
    if "my_images/" in text or ("my_images" in text and "export" not in text):
        write_images(Path("my_images"))


def is_here(text: str) -> bool:
    return not any(re.search(pattern, text) for pattern in NOT_HERE)


def is_right(text: str, error: str) -> bool:
    """A command or snippet that needs nothing else runs; the others say that a file is missing."""
    return not error if is_here(text) else any(words in error for words in MISSING)


class Runner:
    """Runs lines of a page in the working folder."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def line(self, words: list[str]) -> None:
        """By the program that it begins with; one that is neither known nor listed fails."""
        text = " ".join(words)
        if any(text.startswith(start) for start in OUTSIDE):
            return
        programs: dict[str, Callable[[list[str]], None]] = {
            "erk-bench ": lambda words: self.erk_bench(words[1:]),
            "make ": self.make,
            "python scripts/": self.script,
            "python -m erk_bench.multirun ": self.multirun,
            "pip install ": self.install,
            "torchrun ": lambda words: self.erk_bench(words[words.index("erk_bench.cli") + 1 :]),
            "sbatch ": lambda words: self.erk_bench(
                ["run", *words[words.index("slurm/generate.sbatch") + 1 :]]
            ),
            "slurm/launch.sh ": lambda words: self.erk_bench(["plan", *words[1:], "manifest=lines"]),
        }
        known = [run for start, run in programs.items() if text.startswith(start)]
        assert known, f"nothing here runs '{text}'"
        known[0](words)

    def erk_bench(self, words: list[str]) -> None:
        shown = {"--help", "--cfg"} & set(words)
        self.capsys.readouterr()
        text = " ".join(words)
        small = SMALL.get(words[0], ()) if is_here(text) or words[0] == "plan" else ()
        status = main([*words, *(() if shown else small)])
        error = self.capsys.readouterr().err if status else ""
        assert is_right("" if words[0] == "plan" else text, error), (text, error)

    def make(self, words: list[str]) -> None:
        """The commands that it would run."""
        for name in ("Makefile", "pyproject.toml", "requirements.lock"):
            shutil.copy(ROOT / name, ".")
        done = subprocess.run(["make", "-n", *words[1:]], capture_output=True, text=True, check=True)
        for line in done.stdout.splitlines():
            if line.startswith((".venv/bin/erk-bench ", ".venv/bin/python scripts/")):
                self.line(shlex.split(line.removeprefix(".venv/bin/")))

    def script(self, words: list[str]) -> None:
        """It has these options; it is run by tests/test_scripts.py, which has a test for each."""
        text = (ROOT / words[1]).read_text()
        assert all(f'"{word}"' in text for word in words[2:] if word.startswith("--")), words

    def multirun(self, words: list[str]) -> None:
        """Each combination composes; its launchers are tested in tests/test_multirun.py."""
        axes = [word.partition("=") for word in words[4:] if not word.startswith("hydra")]
        for values in product(*(values.split(",") for _, _, values in axes)):
            run_spec([f"{axis[0]}={value}" for axis, value in zip(axes, values, strict=True)], fetch=False)

    def install(self, words: list[str]) -> None:
        with (ROOT / "pyproject.toml").open("rb") as stream:
            project = tomllib.load(stream)["project"]
        name, _, extras = words[2].rstrip("]").partition("[")
        assert name in (".", project["name"])
        assert set(extras.split(",")) <= project["optional-dependencies"].keys()


@pytest.mark.slow
@pytest.mark.results
@pytest.mark.parametrize("block", of_kind("bash"))
def test_commands_run(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    furnish(block.text)
    runner, found = Runner(capsys), list(lines(block))
    assert found, "a block without a command"
    for words in found:
        runner.line(words)


@pytest.mark.slow
@pytest.mark.results
@pytest.mark.parametrize("block", of_kind("python"))
def test_snippets_run(block: Block) -> None:
    furnish(block.text)
    pipe = SimpleNamespace(scheduler=EDMEulerScheduler())
    text = block.text.replace('["fid"]', '["fd_digits"]')  # for want of Inception
    error = ""
    try:
        exec(compile(text, f"{block.page}:{block.line}", "exec"), {"pipe": pipe})
    except UserError as raised:
        error = str(raised)
    assert is_right(text, error), (text, error)


@pytest.mark.parametrize(
    "line",
    ["erk-bench run solvr=heun", "erk-bench table rows=0 colour=red", "curl address",
     "pip install erk-bench[no]", "make no-such-target", "python scripts/cost_curves.py --no-such",
     "slurm/launch.sh table=none", "erk-bench run track=imagenet512 solver.no_such=1"],
)  # fmt: skip
def test_a_wrong_line_fails(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((AssertionError, UserError, subprocess.CalledProcessError)):
        Runner(capsys).line(shlex.split(line))
