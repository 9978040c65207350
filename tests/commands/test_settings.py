"""Settings read without Hydra: the same as Hydra's, and answers to words that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from erk_bench.base.config_files import config_folder
from erk_bench.base.errors import UserError
from erk_bench.cli import main
from erk_bench.commands.compose import compose_config
from erk_bench.commands.settings import RUN, SWEEP, Settings, check_words, comments, defaults, groups


@pytest.mark.parametrize("file", ["run", "train/digits"])
def test_defaults_are_those_that_hydra_composes(file: str) -> None:
    assert defaults(file) == compose_config(file, [])


def test_groups_are_the_folders() -> None:
    folders = {folder.name for folder in config_folder().iterdir() if folder.is_dir()}
    assert set(groups()) == folders - {"table", "grid", "train"}


def test_comments(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "# @package _global_\n# About it.\n# More.\na: 1 # one\nb:\n  c: [2] # two\n  d: 3\ne: 4 # four\n"
    )
    assert comments(file) == {"": "About it.", "a": "one", "b": "", "b.c": "two", "b.d": "", "e": "four"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("table tabel=digits", "unknown setting 'tabel'; did you mean 'table'? Known: table, rows"),
        ("grid gird=digits", "did you mean 'grid'?"),
        ("grid vews=false", "did you mean 'views'?"),
        ("search w_stif=0:1", "did you mean 'w_stiff'?"),
        ("plan thruput=5", "did you mean 'throughput'?"),
        ("export fromat=npz", "did you mean 'format'?"),
        ("fetch dryrun=true", "did you mean 'dry_run'?"),
        ("analyze iteration=5", "did you mean 'iterations'?"),
        ("table sovler=heun", "did you mean 'solver'?"),
        ("table num_step=8", "did you mean 'schedule.num_steps'?"),
        ("run schedule.num_step=8", "did you mean 'schedule.num_steps'?"),
        ("grid correction.w_stif=0,1", "did you mean 'correction.w_stiff'?"),
        ("grid solver=heunn", "did you mean 'heun'?"),
        ("table table=digts", "unknown table 'digts'; did you mean 'digits'?"),
        ("plan grid=figure4_1", "unknown grid 'figure4_1'; did you mean 'figure4_16'?"),
        ("fetch imagenet", "unknown track 'imagenet'; did you mean 'imagenet64'?"),
        ("run tabel", "'tabel' is no setting; write KEY=VALUE"),
        ("plan --manifst x", "unknown option '--manifst'; did you mean '--manifest'?"),
        ("run --seeds 0-9", "'--seeds' is no setting; write KEY=VALUE, for example seeds=VALUE"),
        ("train weaker.iteration=3", "did you mean 'weaker.iterations'?"),
        ("train solver=heun", "unknown setting 'solver'"),
        ("reference sources=x", "unknown setting of reference 'sources'; did you mean 'source'?"),
        ("doctor now", "doctor takes no settings; got now"),
    ],
)  # fmt: skip
def test_typing_errors_name_the_nearest(words: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command's own options come before settings."""
    assert main(words.split()) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "ours"),
    [
        ("+experiment=x", "a set of settings is track=NAME, or a row of table=FILE.yaml"),
        ("+experiment", "track=NAME"),
        ("+solver=heun", "write KEY=VALUE, for example solver=heun"),
        ("++schedule.num_steps=8", "for example schedule.num_steps=8"),
        ("++a.b=8", "nothing is added with + here"),
        ("~guidance", "nothing is taken away with ~ here: write KEY=VALUE, for example guidance=none"),
        ("~guidance.name=none", "for example guidance.name=none"),
        ("hydra.run.dir=x", "out=FOLDER"),
        ("hydra.sweep.dir=x", "out=FOLDER"),
        ("+hydra.job.chdir=true", "python -m erk_bench.multirun"),
        ("hydra.verbose=true", "python -m erk_bench.multirun"),
        ("hydra/launcher=submitit_slurm", "slurm/launch.sh table=NAME"),
        ("hydra.launcher.partition=gpu", "slurm/launch.sh table=NAME"),
        ("hydra/sweeper=optuna", "erk-bench search"),
        ("--multirun", "'erk-bench grid KEY=A,B' runs every combination"),
        ("-m", "'erk-bench grid KEY=A,B' runs every combination"),
        ("--info", "'erk-bench run --cfg'"),
        ("-c", "'erk-bench run --cfg'"),
        ("--config-name", "track=NAME"),
        ("--config-name=x", "track=NAME"),
        ("-cn", "grid=FILE.yaml"),
        ("--config-path", "table=FILE.yaml"),
    ],
)
def test_hydras_words_are_answered_with_ours(word: str, ours: str) -> None:
    for settings in (RUN, SWEEP):
        with pytest.raises(UserError) as error:
            check_words([word], settings)
        start = (
            f"unknown setting '{word.partition('=')[0]}'; " if word[0] == "h" else f"'{word}' is no setting; "
        )
        assert str(error.value).startswith(start) and ours in str(error.value)


def test_cfg_stands_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--cfg", "job"]) == 2
    assert "--cfg is 'job'; write --cfg alone" in capsys.readouterr().err
    assert main(["grid", "--cfg", "job"]) == 2
    assert "'erk-bench run --cfg' shows the settings that a run has" in capsys.readouterr().err


def test_several_values_where_there_are_axes() -> None:
    check_words(["solver=heun,euler", "guidance=none,cfg", "correction.w_con=0,1"], SWEEP)
    with pytest.raises(UserError, match="unknown solver 'heun,euler'"):
        check_words(["solver=heun,euler"], RUN)


def test_settings_of_any_choice_and_of_an_own_solver() -> None:
    check_words(["guidance.eta=0.5", "solver.max_order=2", "model.vae.path=x", "model.weights=5"], RUN)
    check_words(["solver.path=my.py:step", "solver.share=1"], RUN)
    with pytest.raises(UserError, match="unknown setting 'solver.share'"):
        check_words(["solver.share=1"], RUN)
    check_words(["weaker.iterations=3", "weaker=5"], Settings(file="train/digits"))
