"""An installed wheel has what the commands need, and its page on a package index what a reader needs."""

from __future__ import annotations

import email
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from erk_bench.base.extras import EXTRAS

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(file for file in (ROOT / "examples").iterdir() if file.suffix in (".py", ".yaml"))


def example_commands(file: Path) -> list[str]:
    """The commands that an example's first lines name, without those that need files of the reader's."""
    lines = (line.strip().removeprefix("#").strip() for line in file.read_text().splitlines())
    return [line for line in lines if line.startswith("erk-bench ") and "IMAGES" not in line]


FEW = "metrics.kid_subset_size=100"  # for 100 images
# Every other command that works without files of the reader's, in a small form.
EMBEDDED = (
    ["table", "table=convergence", "rows=0,1", "seeds=0-39", "block_size=20", "metrics.num_groups=2",
     "out=results/small"],
    ["grid", "schedule.num_steps=4", "correction.w_stiff=0.5,1", "seeds=0-99", FEW],
    ["generate", "schedule.num_steps=4", "seeds=0-99"],
    ["evaluate", "schedule.num_steps=4", "seeds=0-99", FEW],
    ["export", "schedule.num_steps=4", "seeds=0-99", "to=images"],
    ["generate", "schedule.num_steps=8", "seeds=0-99"],
    ["export", "schedule.num_steps=8", "seeds=0-99", "to=others"],
    ["score", "images,others", "digits", "metrics=fd_digits,kid_digits", "kid_subset_size=100"],
    ["compare", "images", "others", "metrics=fd_digits"],
    ["records", "results", "to=all.csv"],
    ["plan", "table=digits"],
    ["schedule", "solver=euler", "schedule.num_steps=4", "images=20", "seeds=0-19"],
    ["fetch", "model=digits"],
    ["doctor"],
)  # fmt: skip


def container_files() -> list[str]:
    """What the Containerfile copies of the repository."""
    lines = re.findall(r"^COPY (.*) \S+$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    return [path for line in lines for path in line.split()]


def check_metadata(site: Path) -> None:
    """Every picture and link of the README leads somewhere from anywhere; types are marked."""
    (folder,) = site.glob("erk_bench-*.dist-info")
    facts = email.message_from_string((folder / "METADATA").read_text())
    text = facts.get_payload()
    assert isinstance(text, str) and facts["Description-Content-Type"] == "text/markdown"
    readme = (ROOT / "README.md").read_text()
    targets = re.findall(r"\]\(([^)\s]+)", text)
    assert len(targets) == len(re.findall(r"\]\(([^)\s]+)", readme)) and all(
        target.startswith("https://") or target.startswith("#") for target in targets
    )
    for address in re.findall(r"!\[[^\]]*\]\(([^)\s]+)", text):
        base, _, path = address.partition("/main/")
        assert base.startswith("https://raw.githubusercontent.com/") and (ROOT / path).is_file()
    for address in targets:
        assert "/blob/main/" not in address or (ROOT / address.partition("/main/")[2]).exists()
    assert (site / "erk_bench" / "py.typed").is_file()
    assert {line.partition(",")[0] for line in facts.get_all("Project-URL", [])} >= {"Repository", "Paper"}


@pytest.mark.slow
@pytest.mark.results
def test_table_of_an_installed_wheel_compares(tmp_path: Path) -> None:
    """From an empty folder: the records come from the package, and the results go to that folder."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    source = tmp_path / "source"
    for path in container_files():  # all that a build needs, or an image would lack it
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / path).is_dir() else shutil.copy)(ROOT / path, source / path)
    # Its build needs hatchling, which pip fetches.
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(tmp_path / "dist"), str(source)], check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
    assert wheel.stat().st_size < 24e6  # 15 MB of them are what cifar16 and cifar32 ship
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as stored:
        stored.extractall(site)
    check_metadata(site)
    tables = {
        re.search(r"^reference: (\S+)", file.read_text(), re.M)
        for file in (ROOT / "configs" / "table").iterdir()
    }
    for found in filter(None, tables):
        assert len(list((site / "erk_bench" / found[1]).glob("*.json"))) == len(
            list((ROOT / found[1]).glob("*.json"))
        )
    empty = tmp_path / "empty"
    empty.mkdir()
    # Python runs this first: without the packages of extras, as 'pip install erk-bench' leaves them out.
    (site / "sitecustomize.py").write_text(f"import sys; sys.modules.update(dict.fromkeys({[*EXTRAS]}))")
    settings = {**os.environ, "PYTHONPATH": str(site), "ERK_BENCH_OFFLINE": "1"}

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "erk_bench.cli", *words]
        done = subprocess.run(command, cwd=empty, env=settings, capture_output=True, text=True, timeout=1200)
        assert done.returncode == 0, " ".join(words) + done.stdout + done.stderr
        return done.stdout

    def table(*words: str) -> str:
        return run("table", "rows=0,1", *words)

    assert "2 of 2 rows reproduced; reference records: " + str(site) in table()
    assert (empty / "results" / "tables" / "digits.md").is_file() or list(empty.rglob("digits.md"))
    assert not list((site / "erk_bench" / "results").glob("tables"))
    assert "2 of 2 rows are not compared with the reference records" in table("seeds=0-99", FEW)

    commands = [line for file in EXAMPLES for line in example_commands(file)]
    assert len(commands) >= len(EXAMPLES)
    for file in EXAMPLES:
        shutil.copy(file, empty)
    for command in commands:
        words = shlex.split(command)[1:]
        run(*words, *(["seeds=0-99", FEW] if words[0] in ("run", "table", "grid") else []))
        assert not (site / "erk_bench" / "results" / "runs").exists()
    for words in EMBEDDED:
        run(*words)


def test_every_example_says_how_it_is_run() -> None:
    assert EXAMPLES and all(example_commands(file) for file in EXAMPLES)


def test_the_project_is_called_the_same_everywhere() -> None:
    """Its version, licence and address in CITATION.cff are those of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= citation.keys()
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert citation["repository-code"] == project["urls"]["Repository"]
    assert citation["identifiers"][0]["value"] == project["urls"]["Paper"]


def test_the_container_copies_what_is_there_and_installs_known_extras() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "Containerfile").read_text()
    assert all((ROOT / path).exists() for path in container_files()) and "apptainer build" in text
    (extras,) = re.findall(r"'\.\[([^\]]+)\]'", text)
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()


def test_github_runs_what_ci_runs() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert ".ci/run" in [step.get("run") for step in jobs["run"]["steps"]]


def test_the_page_on_installation_names_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "docs" / "install.md").read_text()
    for name in project["optional-dependencies"].keys() - {"dev", "docs"}:
        assert page.count(f"| `{name}`") + page.count(f", `{name}` |") >= 2, name
