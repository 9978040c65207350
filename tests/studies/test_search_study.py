"""A search keeps its study in a file that Optuna and its dashboard open, and goes on with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from erk_bench.base.errors import UserError
from erk_bench.sampling.shared import Strength
from erk_bench.studies.search import MetricAtCost, SearchResult, search
from erk_bench.studies.search_study import StudyFile
from tests.studies.test_search import PLAN, SPACE, Landscape

SMALLER = PLAN._replace(budget=60_000)


class StoppedError(Exception):
    pass


class Stopping(Landscape):
    """Ends the process in its third batch."""

    def __call__(self, cells: Sequence[Strength], num_images: int) -> Mapping[Strength, MetricAtCost]:
        if len(self.calls) == 2:
            raise StoppedError
        return super().__call__(cells, num_images)


def searched(path: Path, measure: Landscape, *, name: str = "one", lower: bool = True) -> SearchResult:
    study = StudyFile(path, name, SPACE, "fd_digits", lower=lower)
    found = search(study.keeping(measure), SPACE, SMALLER, lower=lower, seed=1)
    study.finish(found.rungs[-1][1])
    return found


def load(path: Path, name: str | None = "one") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(path))))


def facts(study: optuna.Study) -> list[tuple[object, ...]]:
    return [(trial.params, trial.state, trial.value, trial.intermediate_values) for trial in study.trials]


@pytest.mark.parametrize("lower", [True, False])
def test_optuna_finds_every_trial_and_the_winner(tmp_path: Path, lower: bool) -> None:
    found = searched(tmp_path / "new" / "studies.journal", Landscape(sign=1 if lower else -1), lower=lower)
    study = load(tmp_path / "new" / "studies.journal", name=None)
    assert study.metric_names == ["fd_digits"]
    assert study.direction.name == ("MINIMIZE" if lower else "MAXIMIZE")
    first, last = found.rungs[0][1], found.rungs[-1][1]
    assert {tuple(trial.params.values()) for trial in study.trials} == {tuple(cell) for cell, _ in first}
    assert len(study.trials) == len(first)
    winner, value = last[0]
    assert (study.best_params, study.best_value) == (winner._asdict(), value)
    for images, cells in found.rungs:
        told = {
            Strength(**trial.params): trial.intermediate_values[images]
            for trial in study.trials
            if images in trial.intermediate_values
        }
        assert told == dict(cells)
    complete = study.get_trials(states=[TrialState.COMPLETE])
    assert {Strength(**trial.params) for trial in complete} == {cell for cell, _ in last}
    assert len(study.get_trials(states=[TrialState.PRUNED])) == len(first) - len(last)


def test_the_file_changes_nothing_and_a_repeat_adds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "studies.journal"
    plain = search(Landscape(), SPACE, SMALLER, lower=True, seed=1)
    assert searched(path, Landscape()) == plain
    before = facts(load(path))
    assert searched(path, Landscape()) == plain
    assert facts(load(path)) == before


@pytest.mark.parametrize("torn", [b"", b'{"op_code":4,"worker'])
def test_a_search_that_was_stopped_goes_on_in_its_study(tmp_path: Path, torn: bytes) -> None:
    """torn: what the process had begun to write when it was killed."""
    path, whole = tmp_path / "studies.journal", tmp_path / "whole.journal"
    with pytest.raises(StoppedError):
        searched(path, Stopping())
    assert {trial.state for trial in load(path).trials} == {TrialState.RUNNING}
    assert len(load(path).trials) == 2 * PLAN.batch
    started = [trial.datetime_start for trial in load(path).trials]
    with path.open("ab") as file:
        file.write(torn)
    assert searched(path, Landscape()) == searched(whole, Landscape())
    assert facts(load(path)) == facts(load(whole))
    assert [trial.datetime_start for trial in load(path).trials][: len(started)] == started


def test_other_searches_stay_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "studies.journal"
    searched(path, Landscape())
    before = facts(load(path))
    searched(path, Landscape(sign=-1), name="other", lower=False)
    assert facts(load(path)) == before
    storage = JournalStorage(JournalFileBackend(str(path)))
    assert sorted(optuna.get_all_study_names(storage)) == ["one", "other"]


@pytest.mark.parametrize("content", [b"images,w_stiff\n", b"[]\n", b"{}\n", b"\x80\x00\n\x81", b"no line"])
def test_another_file_in_its_place_is_named_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "studies.journal"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"studies\.journal' is no study of Optuna's, or a damaged one; move"):
        StudyFile(path, "one", SPACE, "fd_digits", lower=True)
    assert path.read_bytes().startswith(content)


@pytest.mark.parametrize("place", ["file/studies.journal", "folder"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        StudyFile(tmp_path / place, "one", SPACE, "fd_digits", lower=True)
