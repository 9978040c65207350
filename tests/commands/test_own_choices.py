"""Settings from files and folders of a user's own: groups, presets, tables, grids, manifests, errors."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from pathlib import Path

import pytest

import erk_bench
from erk_bench.base.config_files import VARIABLE, config_folder, listing, searching
from erk_bench.base.errors import UserError
from erk_bench.base.own_settings import read_own
from erk_bench.cli import main
from erk_bench.commands import COMMANDS
from erk_bench.commands.completion import candidates
from erk_bench.commands.compose import run_spec
from erk_bench.commands.compose_studies import grid_cells, grid_file, table_file, table_runs
from erk_bench.spec import RunSpec

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "erk_bench/digits/weights"
MODEL = """\
# The digits networks under another name.
name: mine
weights: {path: net.safetensors}
unconditional: {path: "package:digits/weights/unconditional.safetensors"}
decoder: digits
guidance_weight: 1.5
about: {track: tiny, guidance: cfg}
"""
PLAIN = MODEL.replace("about: {track: tiny, guidance: cfg}\n", "")
TRACK = """\
# A hundred digits in a few steps.
model: digits
metrics: digits
solver: unipc
schedule: {num_steps: 4}
seeds: 0-99
"""
SOLVER = "# Ralston's method.\npath: my_solver.py:step\nshare: 0.75\n"
TABLE = """\
name: small
title: Small
caption: Two rows.
base: [track=tiny, model=mine, guidance=none]
headline: fd_digits
rows:
  - [solver=euler]
  - [solver=ralston]
"""
GRID = """\
name: little
title: Little
caption: Two cells.
base: [track=tiny, model=mine, guidance=none, solver=ralston]
axes: {solver.share: [0.5, 0.75]}
panels: [fd_digits]
"""


@pytest.fixture
def folder() -> Path:
    """A folder of every kind of file, in the working folder; nothing else is there."""
    own = Path("own").absolute()
    files = {
        "model/mine.yaml": MODEL, "track/tiny.yaml": TRACK, "solver/ralston.yaml": SOLVER,
        "table/small.yaml": TABLE, "grid/little.yaml": GRID,
    }  # fmt: skip
    for name, text in files.items():
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text(text)
    shutil.copy(WEIGHTS / "denoiser.safetensors", own / "model/net.safetensors")
    shutil.copy(ROOT / "examples/my_solver.py", own / "solver")
    return own


def same_but_names(spec: RunSpec, other: RunSpec) -> bool:
    """Whether two runs have the same settings, whatever their model is called and wherever it lies."""
    return dataclasses.replace(spec, model=other.model) == other


GROUP_FILES = {
    "model": (PLAIN, ["model=digits"]),
    "solver": ("name: deis\nmax_order: 2\n", ["solver=deis", "solver.max_order=2"]),
    "schedule": ("name: logsnr\nnum_steps: 8\n", ["schedule=logsnr", "schedule.num_steps=8"]),
    "guidance": ("name: cfg\ninterval: [0.2, 2]\n", ["guidance=cfg", "guidance.interval=[0.2,2]"]),
    "correction": ("name: erk_guid\nw_stiff: 0.5\n", ["correction=erk_guid", "correction.w_stiff=0.5"]),
    "metrics": ("names: [fd_digits]\nreference: digits\n",
                ["metrics.names=[fd_digits]", "metrics.kid_subsets=100", "metrics.kid_subset_size=1000"]),
    "tracker": ("name: wandb\nproject: theirs\n", ["tracker=wandb", "tracker.project=theirs"]),
    "track": ("seeds: 0-99\nmodel: digits\nsolver: euler\nschedule: {num_steps: 4}\nblock_size: 125\n",
              ["seeds=0-99", "solver=euler", "schedule.num_steps=4"]),
}  # fmt: skip


def test_every_group_is_tried() -> None:
    assert set(GROUP_FILES) == set(listing()) - {"table", "grid", "train"}


@pytest.mark.parametrize("group", GROUP_FILES)
@pytest.mark.parametrize("name", ["mine.yaml", "./a folder/the file.yml"])
def test_a_group_takes_a_file(group: str, name: str) -> None:
    """Its settings are those of the same words; what it leaves out has its default; words go over it."""
    text, words = GROUP_FILES[group]
    file = Path(name)
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    shutil.copy(WEIGHTS / "denoiser.safetensors", file.parent / "net.safetensors")
    mine, theirs = run_spec([f"{group}={name}"]), run_spec(words)
    assert same_but_names(mine, theirs) and mine.model.weights.sha256 == theirs.model.weights.sha256
    assert (mine.run_id == theirs.run_id) == (group != "model")
    over = {"solver": "solver.s_churn=2", "schedule": "schedule.rho=3", "guidance": "guidance.weight=2"}
    more = over.get(group, "seeds=5-9")
    assert same_but_names(run_spec([f"{group}={name}", more]), run_spec([*words, more]))


def test_content_decides_not_the_place(folder: Path) -> None:
    """The same file elsewhere, by path or by name, is the same run; another content is another."""
    Path("x").mkdir()
    for file in (folder / "model").iterdir():
        shutil.copy(file, "x")
    with searching([folder]):
        by_name = run_spec(["model=mine", "track=digits"])
        by_path = run_spec(["model=x/mine.yaml", "track=digits"])
        assert by_path.run_id == by_name.run_id
        file = Path("x/mine.yaml")
        file.write_text(file.read_text().replace("name: mine", "name: other"))
        assert run_spec(["model=x/mine.yaml", "track=digits"]).run_id != by_name.run_id


@pytest.mark.parametrize("way", ["environment", "option", "setting"])
def test_a_folder_of_ones_own(
    way: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"environment": [], "option": ["--config-dir", "own"], "setting": ["config_dir=own"]}[way]
    if way == "environment":
        (folder.parent / "more/schedule").mkdir(parents=True)
        monkeypatch.setenv(VARIABLE, f"own{os.pathsep}more")
    assert main(["run", "--cfg", "model=mine", *words, "schedule.num_steps=6"]) == 0
    shown = capsys.readouterr().out
    assert "run_id: mine-unipc6-cfg1.5-" in shown and "seeds: 0-99\n" in shown  # preset and track
    assert f"path: {folder}/model/net.safetensors" in shown
    assert main([*words, "--help", "models"]) == 0
    shown = capsys.readouterr().out
    assert "model=mine" in shown and "The digits networks under another name" in shown
    assert f"{config_folder() / 'model'}, {folder / 'model'}" in shown
    assert main(["run", "model=min", *words]) == 2
    assert "did you mean 'mine'?" in capsys.readouterr().err
    assert main(["table", "table=smal", *words]) == 2
    assert "did you mean 'small'?" in capsys.readouterr().err
    assert main(["plan", "table=small", "throughput=1", *words]) == 0
    assert "mine-my_solver.step4-share0.75" in capsys.readouterr().out
    assert main(["fetch", "tiny", *words, "dry_run=true"]) == 0
    assert candidates(COMMANDS, ["run", *words], "track=ti") == ["track=tiny "]
    if way != "environment":  # and only for this command
        assert "mine" not in listing()["model"]
        assert main(["run", "--cfg", "model=mine"]) == 2


def test_tables_grids_and_python(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(folder))
    rows = table_runs(table_file("small"), [])[1]
    assert [spec.solver.name for spec in rows] == ["euler", "my_solver.step"]
    assert {spec.seeds for spec in rows} == {"0-99"} and {spec.schedule.rho for spec in rows} == {7.0}
    assert len(grid_cells(grid_file("little"), [])[1]) == 2
    shipped = erk_bench.load_denoiser("digits").state_dict()
    for name in ("mine", "own/model/mine.yaml"):
        found = erk_bench.load_denoiser(name).state_dict()
        assert all((found[key] == value).all() for key, value in shipped.items())
    with pytest.raises(UserError, match="did you mean 'mine'"):
        erk_bench.load_denoiser("mien")
    with pytest.raises(UserError, match=r"no file \(looked in"):
        erk_bench.load_denoiser("mien.yaml")


def test_paths_are_relative_to_their_file() -> None:
    """Code, with options and of a detector too; files that are there; not addresses, modules and names."""
    Path("x").mkdir()
    Path("x/levels.txt").write_text("80 1 0.1")
    Path("x/digits").write_text("")
    file = Path("x/any.yaml")
    names = ["a.py:f:p=1@digits", "fd@b.py:load", "kid@digits", "../c.py:f"]
    file.write_text(
        f"names: {names}\nsigmas: levels.txt\nreference: digits\nmodel: m.yaml\nother: n.txt\n"
        "weights: {path: w.pkl}\nvae: {path: 'edm2:w.pkl'}\nmore: {path: 'https://a.b/w.pkl'}\n"
        "path: a.b:step\nhome: {path: ~/w.pkl}\nroot: {path: /w.pkl}\n"
        "both: digits=levels.txt,inception=gone.npz\n"
    )
    x = Path("x").absolute()
    assert read_own(file) == {
        "names": [f"{x}/a.py:f:p=1@digits", f"fd@{x}/b.py:load", "kid@digits", f"{x}/../c.py:f"],
        "sigmas": f"{x}/levels.txt", "reference": "digits", "model": f"{x}/m.yaml", "other": "n.txt",
        "weights": {"path": f"{x}/w.pkl"}, "vae": {"path": "edm2:w.pkl"},
        "more": {"path": "https://a.b/w.pkl"}, "path": "a.b:step", "home": {"path": "~/w.pkl"},
        "root": {"path": "/w.pkl"}, "both": f"digits={x}/levels.txt,inception=gone.npz",
    }  # fmt: skip


@pytest.mark.slow
def test_a_run_from_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Own weights, track and code, through to the record; workers need no folder."""
    words = ["config_dir=own", "model=mine", "solver=ralston", "guidance=none", "seeds=0-15", "block_size=8"]
    assert main(["run", *words, "workers=1", "metrics.names=[fd_digits]", "metrics.num_groups=2"]) == 0
    assert "mine-my_solver.step4-share0.75" in capsys.readouterr().out


def test_manifests_find_everything(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From another folder, without the variable: lines name their folders and files by absolute paths."""
    monkeypatch.setenv(VARIABLE, "own")
    Path("fine.yaml").write_text("name: polynomial\nnum_steps: 3\n")
    for name in ("table=small", "grid=little", "grid=own/grid/little.yaml"):
        assert main(["plan", "--manifest", "sweep", name, "schedule=fine.yaml"]) == 0
        monkeypatch.delenv(VARIABLE)
        Path("elsewhere").mkdir(exist_ok=True)
        monkeypatch.chdir("elsewhere")
        capsys.readouterr()
        assert main(["task", "../sweep"]) == 0
        shown = capsys.readouterr().out
        assert f"--config-dir={folder}" in shown and f"schedule={folder.parent}/fine.yaml" in shown
        assert f"={folder}/grid/little.yaml" in shown or name != "grid=own/grid/little.yaml"
        monkeypatch.chdir(folder.parent)
        monkeypatch.setenv(VARIABLE, "own")


def test_a_line_of_a_manifest_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["seeds=0-7", "block_size=8", "workers=1", "metrics.names=[fd_digits]", "metrics.num_groups=2"]
    assert main(["plan", "--manifest", "sweep", "table=small", "--config-dir=own", "rows=0", *words]) == 0
    monkeypatch.chdir(folder)
    assert main(["task", "../sweep", "0"]) == 0
    assert list(Path("results/runs").glob("mine-euler4-*/record*"))


def test_doctor_names_the_folders(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "model/bad.yaml").write_text("name: [")
    main(["doctor", "--config-dir", "own"])
    shown = capsys.readouterr().out
    assert f"configs: {config_folder()}, {folder}\n" in shown
    assert "model mine: 1x8x8, loads" in shown and "PROBLEM: model bad: cannot read the settings" in shown


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(words) == 2
    line = capsys.readouterr().err
    assert line.startswith("erk-bench: ") and line.count("\n") == 1
    return line


@pytest.mark.parametrize(
    ("group", "text", "expected"),
    [
        ("model", "- 1\n", "are no mapping of names to values"),
        ("model", "", "it is empty"),
        ("model", "name: x\n", "have no 'weights'"),
        ("model", PLAIN.replace("decoder", "decodr"), "did you mean 'decoder'?"),
        ("model", PLAIN + "wheights: 5\n", "did you mean 'weights'?"),
        ("model", PLAIN.replace("guidance_weight: 1.5\n", ""), "have no 'guidance_weight'"),
        ("model", PLAIN.replace("{path: net.safetensors}", "{pth: net.safetensors}"), "'weights.path'?"),
        ("model", PLAIN.replace("{path: net.safetensors}", "[1]"), "set its file: model.weights.path=FILE"),
        ("model", PLAIN.replace("net.safetensors", "gone.pkl"), "/gone.pkl'; check the path"),
        ("model", PLAIN.replace("name: mine", "name: [a]"), "model.name is ['a']"),
        ("model", PLAIN.replace("decoder: digits", "decoder: 5"), "model.decoder is 5"),
        ("model", PLAIN.replace("name: mine", "name: ../x"), "model.name"),
        ("model", PLAIN.replace("name: mine", "name: ${oc.env:HOME}"), "reads the environment"),
        ("model", PLAIN.replace("name: mine", "name: 2020-01-01"), "a date; put quotes around it"),
        ("model", PLAIN.replace("name: mine", 'name: "a\\nb"'), "line break"),
        ("model", MODEL.replace("{track: tiny, guidance: cfg}", "5"), "has about 5, not a mapping"),
        ("model", MODEL.replace("tiny", "tinny"), "unknown track 'tinny'"),
        ("model", "name: a\nname: b\n", "given twice"),
        ("model", "name: !!python/object:os.system x\n", "has the tag"),
        ("model", "defaults: [digits]\n" + PLAIN, "unknown entry of the model settings"),
        ("model", "weights.path: x\n" + PLAIN, "'weights.path'"),
        ("solver", "share: 0.5\n", "have no 'name': one of"),
        ("solver", "name: huen\n", "did you mean 'heun'?"),
        ("solver", "name: heun\nmax_ordr: 2\n", "unknown entry of the solver settings"),
        ("solver", "name: heun\ns_churn: [1]\n", "solver.s_churn"),
        ("solver", "path: gone.py:step\n", "gone.py', which does not exist"),
        ("solver", "path: my_solver.py:stepp\n", "did you mean 'step'?"),
        ("solver", "path: my_solver.py:step\nshar: 1\n", "shar"),
        ("solver", "path: my_solver.py:step\noptions: {share: 1}\n", "write options beside 'path'"),
        ("schedule", "name: polynomial\nnum_steps: many\n", "schedule.num_steps is 'many'"),
        ("guidance", "name: cfg\nwieght: 2\n", "did you mean 'weight'?"),
        ("correction", "name: erk_guid\nw_stiff: -1\n", "correction.w_stiff is -1"),
        ("metrics", "names: [fd_digits]\n", "metrics.reference is missing"),
        ("metrics", "names: [fd_digits]\nreference: digits\nkid_subset: 4\n", "'kid_subsets'?"),
        ("tracker", "name: wnadb\n", "did you mean 'wandb'?"),
        ("track", "sedes: 0-9\n", "did you mean 'seeds'?"),
        ("track", "seeds: [1]\n", "seeds is [1]"),
        ("track", "model: nope\n", "unknown model 'nope'"),
        ("track", "model: 5\n", "has model 5; name a choice"),
        ("track", "schedule: {num_step: 4}\n", "unknown entry of the schedule settings"),
        ("track", "track: digits\n", "unknown"),
        ("track", "hydra: {verbose: true}\n", "unknown entry of the track"),
        ("track", "defaults: [model]\n", "write the choice of a group as GROUP: NAME"),
        ("track", "defaults: 5\n", "write the choice of a group as GROUP: NAME"),
        ("track", "defaults: [{override /modle: digits}]\n", "did you mean 'model'?"),
    ],
)  # fmt: skip
def test_errors_of_a_file(
    group: str, text: str, expected: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, before anything runs; by path and by name alike."""
    places = {"model": folder / "model", "solver": folder / "solver"}
    file = places.get(group, Path()) / "odd.yaml"
    file.write_text(text)
    assert expected in told(["run", f"{group}={file}"], capsys)
    (folder / group).mkdir(exist_ok=True)
    if group not in places:
        shutil.copy(file, folder / group)
    assert expected in told(["run", f"{group}=odd", "--config-dir", "own"], capsys)
    assert not Path("results").exists()


def test_errors_of_places(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = Path.cwd()
    for group in ("model", "solver", "track", "table", "grid"):
        command = group if group in ("table", "grid") else "run"
        shown = told([command, f"{group}=gone.yaml"], capsys)
        assert f"{group} is 'gone.yaml', which is no file (looked in '{here}')" in shown
    Path("d.yaml").mkdir()
    assert "is a folder" in told(["run", "model=d.yaml"], capsys)
    assert "FILE.yaml" in told(["run", "model=./mine"], capsys)
    assert "no folder of settings" in told(["run", "--config-dir", "gone"], capsys)
    assert "--config-dir needs a folder" in told(["run", "--config-dir"], capsys)
    Path("empty").mkdir()
    assert "has none of the folders" in told(["run", "--config-dir", "empty"], capsys)
    (folder / "models").mkdir()
    (folder / "models/a.yaml").write_text(MODEL)
    assert "unknown group" in told(["run", "--config-dir", "own"], capsys)


def test_a_name_means_one_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a shipped name nor that of another folder is taken over; a folder given twice is one."""
    shutil.copytree(folder, "second")
    shown = told(["run", "--config-dir", "own", "--config-dir", "second"], capsys)
    assert "can mean only one of them; rename yours" in shown
    assert main(["run", "--cfg", "model=mine", "--config-dir", "own", "config_dir=./own"]) == 0
    Path("third/model").mkdir(parents=True)
    shutil.copy(folder / "model/mine.yaml", "third/model/digits.yaml")
    assert "has the name of" in told(["run", "--config-dir", "third"], capsys)


def test_a_track_says_its_choices_and_words_win(folder: Path) -> None:
    with searching([folder]):
        assert run_spec(["track=tiny"]).schedule.name == "logsnr"  # UniPC's own
        spec = run_spec(["track=tiny", "solver=heun", "schedule.num_steps=7", "seeds=0-3"])
        assert (spec.solver.name, spec.schedule.name) == ("heun", "polynomial")
        assert (spec.schedule.num_steps, spec.seeds) == (7, "0-3")
    Path("t.yaml").write_text("defaults:\n  - override /model: own/model/mine.yaml\nguidance: none\n")
    assert run_spec(["track=t.yaml"]).model.name == "mine"


def test_the_examples_of_the_page(folder: Path) -> None:
    """docs/settings.md, its files written as they stand there."""
    text = (ROOT / "docs/settings.md").read_text()
    for block in re.findall(r"```yaml\n(.*?)```", text, re.S):
        name = re.match(r"# (\w+\.yaml)", block)
        assert name
        Path(name[1]).write_text(block)
    shutil.copy(folder / "model/net.safetensors", ".")
    shutil.copy(ROOT / "examples/my_solver.py", ".")
    commands = re.findall(r"```bash\nerk-bench run (?!--cfg)(.*?)\n```", text)
    assert len(commands) == 2
    folder.rename("my_configs")
    for command in commands:
        assert main(["run", "--cfg", *command.split()]) == 0
    spec = run_spec(commands[0].split())
    assert (spec.model.name, spec.solver.options, spec.schedule.num_steps) == ("mine", (("share", 0.75),), 8)
    assert {line.split()[0] for line in text.split("my_configs/\n")[1].split("```")[0].splitlines()} <= {
        str(path.relative_to("my_configs")) for path in Path("my_configs").rglob("*")
    }
