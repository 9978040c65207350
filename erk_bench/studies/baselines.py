"""Which row of a table each row is compared with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from erk_bench.base.fields import identity_fields
from erk_bench.runs.records import Record
from erk_bench.spec import RunSpec, Spec
from erk_bench.studies.table_file import COST, RowSpec, TableFile


class Line(NamedTuple):
    """A row of a table file, its run, and that run's records, one for each seed set."""

    row: RowSpec
    spec: Spec
    records: Sequence[Record]

    @property
    def cost(self) -> float:
        """Evaluations of both networks for one image."""
        return self.records[0].nfe + self.records[0].nfe_guide

    @property
    def run(self) -> RunSpec | None:
        """Its run; None for a set of images."""
        return self.spec if isinstance(self.spec, RunSpec) else None


def baselines(table: TableFile, lines: Sequence[Line]) -> list[Line | None]:
    """The line that each line is compared with; None where there is none, or none among `lines`."""
    return [_baseline(table, line, lines) for line in lines]


def _baseline(table: TableFile, line: Line, lines: Sequence[Line]) -> Line | None:
    wanted = table.baseline_of(line.row)
    if isinstance(wanted, RowSpec):
        found = [other for other in lines if (other.row.set, other.row.images) == (wanted.set, wanted.images)]
    elif line.run is None:
        found = []  # nobody knows what it cost
    elif wanted == COST:
        found = [
            other
            for other in lines
            if other.run is not None
            and (other.cost, _rest(other.run)) == (line.cost, _rest(line.run))
            and not other.run.correction.w_stiff
        ]
    else:
        plain = line.run.baseline.digest if line.run.correction.w_stiff else None
        found = [other for other in lines if other.spec.digest == plain]
    return found[0] if found and found[0].spec.digest != line.spec.digest else None


def _rest(spec: RunSpec) -> str:
    """What two methods must have in common: the network, guidance and all else but how the ODE is solved."""
    fields = identity_fields(spec)
    return json.dumps({key: fields[key] for key in fields if key not in ("solver", "schedule", "correction")})
