"""Packages of extras: no embedded command needs one, and each that is missing is named with its extra."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from erk_bench.base.errors import UserError
from erk_bench.base.extras import EXTRAS, MissingPackageError, need
from erk_bench.cli import main
from erk_bench.commands import COMMANDS
from erk_bench.evaluation.detectors import DETECTORS
from erk_bench.networks.decoders import DECODERS
from erk_bench.networks.vae import PUBLISHED_CONFIG, empty_vae
from erk_bench.spec import RunSpec
from tests.test_layout import at_import, imported, modules

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    """The packages that a list of requirements names."""
    return {re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0] for text in requirements}


# Of another package: hydra's language of settings, and the safe texts of Jinja's pages.
BROUGHT = ("omegaconf", "markupsafe")


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a package one that is not installed."""

    def remove(package: str) -> None:
        for name in [*sys.modules]:
            if name.partition(".")[0] == package:
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)

    return remove


@pytest.mark.parametrize(("package", "extra"), EXTRAS.items())
def test_a_missing_package_is_told_with_its_extra(
    package: str, extra: str, without: Callable[[str], None]
) -> None:
    without(package)
    with pytest.raises(MissingPackageError) as caught:
        need(package, "this")
    told = f"this needs {package}, which is not installed; run: pip install 'erk-bench[{extra}]'"
    assert str(caught.value) == f"{told} (or pip install '{package}')"
    assert isinstance(caught.value, UserError) and isinstance(caught.value, ImportError)
    # Imported with _, distributed with -.
    assert package.replace("_", "-") in names(PROJECT["optional-dependencies"][extra])
    assert package not in names(PROJECT["dependencies"])


def test_a_package_that_is_broken_is_no_missing_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text("import a_package_that_nobody_has")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_nobody_has") as caught:
        need("timm", "this")
    assert not isinstance(caught.value, UserError)


def test_every_import_is_a_dependency_or_an_extra() -> None:
    """What the package imports, every install brings or `EXTRAS` names."""
    distributions = importlib.metadata.packages_distributions()
    inside = {package.lower().replace("_", "-") for package in names(PROJECT["dependencies"])}
    for name, file in modules().items():
        for package in {each.partition(".")[0] for each in imported(ast.walk(ast.parse(file.read_text())))}:
            if package in (*sys.stdlib_module_names, "erk_bench") or package in EXTRAS:
                continue
            brought = {each.lower().replace("_", "-") for each in distributions.get(package, [package])}
            assert brought & inside or package in BROUGHT, f"{name} imports {package}"


IMPORTS = f"""
import importlib, json, pkgutil, sys
for package in {sorted(EXTRAS)} + ["transformers", "submitit", "sqlalchemy", "huggingface_hub"]:
    sys.modules[package] = None
import erk_bench
failed = {{}}
for module in pkgutil.walk_packages(erk_bench.__path__, "erk_bench."):
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        failed[module.name] = str(error)
from erk_bench.cli import main
from erk_bench.commands import COMMANDS
status = [main([name, "--help"]) for name in COMMANDS] + [main(["plan", "table=digits"])]
print(json.dumps([failed, status]), file=sys.stderr)
"""
ABOUT_ONE = (
    "erk_bench.diffusers",
    "erk_bench.studies.search",
    "erk_bench.studies.search_study",
    "erk_bench.reporting.trackers.wandb.runs",
    "erk_bench.reporting.trackers.wandb.tracker",
)
# and those that import one of them, or what torch has for one
WITH_ONE = (*ABOUT_ONE, "erk_bench.commands.actions.search", "erk_bench.reporting.trackers.tensorboard")


def test_no_extra_is_imported_with_the_package() -> None:
    """Only modules that are about one package import it at once."""
    found = set()
    for name, file in modules().items():
        nodes = at_import(ast.parse(file.read_text()))
        guarded = {node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))}
        if {each.partition(".")[0] for each in imported(guarded)} & EXTRAS.keys():
            found.add(f"erk_bench.{name}")
    assert found - {"erk_bench.runs.record_folder", "erk_bench.runs.record_frame",
                    "erk_bench.reporting.site.build"} == set(ABOUT_ONE)  # fmt: skip


@pytest.mark.slow
def test_importing_needs_no_extra() -> None:
    """Every module but those that are about one package; every command's help; a plan."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    failed, status = json.loads(done.stderr.splitlines()[-1])
    assert set(failed) == set(WITH_ONE)
    assert set(status) == {0} and len(status) == len(COMMANDS) + 1


@pytest.mark.parametrize(
    ("package", "words", "user"),
    [
        ("optuna", ["search", "track=digits"], "search"),
        ("timm", ["run", "track=digits", "metrics.names=[fd_dinov2]"], "detector 'dinov2_torch'"),
        (
            "timm",
            ["run", "track=digits", "metrics.names=[fdr6]"],
            "detector 'fdr6_convnext'",
        ),
        ("diffusers", ["run", "track=imagenet512", "metrics.names=[fid]"], "decoder 'sd_vae'"),
        ("diffusers", ["generate", "track=imagenet512"], "decoder 'sd_vae'"),
        ("diffusers", ["run", "track=imagenet256"], "decoder 'sd_vae_dit'"),
        ("diffusers", ["qualitative", "model=dit_xl_2_512", "classes=207"], "qualitative"),
        ("jinja2", ["report", "records"], "report"),
        ("plotly", ["report", "records"], "report"),
        ("pyarrow", ["records", "records", "to=all.parquet"], "a Parquet file"),
        ("wandb", ["run", "tracker=wandb"], "tracker 'wandb'"),
        ("tensorboard", ["run", "tracker=tensorboard"], "tracker 'tensorboard'"),
    ],
)
def test_a_command_says_in_one_line_what_it_lacks(
    package: str, words: list[str], user: str, without: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Before anything is fetched: tests have no network, and another error would come first."""
    without(package)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert f"{user} needs {package}" in error
    assert f"pip install 'erk-bench[{EXTRAS[package]}]'" in error


def test_a_set_says_what_its_metrics_lack(
    tmp_path: Path, without: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(100):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    without("timm")
    assert main(["score", str(tmp_path), str(tmp_path), "metrics=fd_dinov2"]) == 2
    assert "needs timm, which is not installed" in capsys.readouterr().err


def test_python_says_it_too(without: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    without("diffusers")
    monkeypatch.delitem(sys.modules, "erk_bench.diffusers", raising=False)
    with pytest.raises(ImportError, match=r"erk_bench\.diffusers needs diffusers.*erk-bench\[diffusers\]"):
        importlib.import_module("erk_bench.diffusers")
    with pytest.raises(UserError, match=r"autoencoder of latents needs diffusers.*erk-bench\[diffusers\]"):
        empty_vae(PUBLISHED_CONFIG)


def test_rows_name_what_they_are_built_with() -> None:
    """A row whose module asks for a package says so, too, where it can be known early."""
    for name, row in DETECTORS.items():
        assert (row.package == "timm") == row.load.startswith(
            ("erk_bench.evaluation.dinov2", "erk_bench.evaluation.timm_encoders")
        ), name
    for name, decoder in DECODERS.items():
        assert (decoder.package == "diffusers") == (decoder.load is not None), name


@pytest.mark.slow
def test_an_embedded_run_needs_no_extra(
    small_run: Callable[..., RunSpec], tmp_path: Path, without: Callable[[str], None]
) -> None:
    """All of its metrics, KID's torch-fidelity among them."""
    for package in EXTRAS:
        without(package)
    words = ["schedule.num_steps=2", "seeds=0-79", "block_size=40", "workers=1", "device=cpu",
             f"out={tmp_path / 'runs'}", "metrics.num_groups=2", "metrics.kid_subset_size=10"]  # fmt: skip
    assert main(["run", *words]) == 0
