"""The study of a search as a file of Optuna's, which its dashboard shows while the search goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from erk_bench.base.errors import UserError
from erk_bench.sampling.shared import Strength
from erk_bench.studies.search import STEP, Measure, MetricAtCost, Space, quiet


class StudyFile:
    """One study in a journal, a file to which lines are only added.

    A cell is a trial, and its values on more and more images are the trial's intermediate values. At the end
    the cells on all images are complete and the others pruned, so that Optuna's best trial is the winner. A
    search that is started again goes on with the trials that it finds. Studies of other names stay beside it.
    """

    def __init__(self, path: Path, name: str, space: Space, metric: str, *, lower: bool) -> None:
        """lower: whether lower values of the metric are better.

        Raises UserError for a file that is no journal of Optuna's, or cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._busy = FileLock(path.with_name(f".{path.name}.busy"))
            with quiet(), self._busy:
                self._space: dict[str, BaseDistribution] = {
                    key: FloatDistribution(*bounds, step=STEP)
                    for key, bounds in zip(Space._fields, space, strict=True)
                }
                _mend(path)
                self._storage = JournalStorage(JournalFileBackend(str(path)))
                self._study = optuna.create_study(
                    storage=self._storage,
                    study_name=name,
                    direction="minimize" if lower else "maximize",
                    load_if_exists=True,
                )
                if not self._study.metric_names:
                    self._study.set_metric_names([metric])
        except OSError as error:
            raise UserError(
                f"the study '{path}' cannot be written ({error.strerror}); give another folder, to=..."
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"'{path}' is no study of Optuna's, or a damaged one; move it away: the search writes it anew"
            ) from error

    def keeping(self, measure: Measure) -> Measure:
        """The same measurements, each of which is written down as soon as it is made."""

        def kept(cells: Sequence[Strength], num_images: int) -> Mapping[Strength, MetricAtCost]:
            found = measure(cells, num_images)
            self._report({cell: item.value for cell, item in found.items()}, num_images)
            return found

        return kept

    def _report(self, values: Mapping[Strength, float], images: int) -> None:
        with quiet(), self._busy:
            known = self._trials()
            for cell, value in values.items():
                trial = known.get(cell)
                if trial is None:
                    made = create_trial(
                        state=TrialState.RUNNING,
                        params=cell._asdict(),
                        distributions=self._space,
                        intermediate_values={images: value},
                    )
                    self._study.add_trial(made)
                elif not trial.state.is_finished() and images not in trial.intermediate_values:
                    study = self._storage.get_study_id_from_name(self._study.study_name)
                    number = self._storage.get_trial_id_from_study_id_trial_number(study, trial.number)
                    self._storage.set_trial_intermediate_value(number, images, value)

    def finish(self, finalists: Sequence[tuple[Strength, float]]) -> None:
        """The search is over. finalists: the cells on all images, with their values."""
        last = dict(finalists)
        with quiet(), self._busy:
            for cell, trial in self._trials().items():
                if not trial.state.is_finished():
                    state = TrialState.COMPLETE if cell in last else TrialState.PRUNED
                    self._study.tell(trial.number, last.get(cell), state)

    def _trials(self) -> dict[Strength, FrozenTrial]:
        return {
            Strength(*(round(trial.params[key], 6) for key in Space._fields)): trial
            for trial in self._study.get_trials(deepcopy=False)
        }


def _mend(path: Path) -> None:
    """Drop an unfinished last line, which a killed process leaves: lines behind it would not be read.

    Raises ValueError for a file that is no journal, which stays as it is.
    """
    content = path.read_bytes() if path.exists() else b""
    whole = content.rfind(b"\n") + 1
    if content and not content.startswith(b"{"):
        raise ValueError("it does not begin with a line of a journal")
    if whole and "op_code" not in json.loads(content[: content.index(b"\n")]):
        raise ValueError("its first line is none of a journal")
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
