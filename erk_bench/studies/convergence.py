"""What tables say of solver errors: the solver's order, and where errors stop telling of the solver."""

from __future__ import annotations

from collections.abc import Sequence

from erk_bench.evaluation.metrics import solver_errors
from erk_bench.reporting.table_views import Floor
from erk_bench.runs.records import Record
from erk_bench.sampling.solvers import SOLVERS
from erk_bench.spec import RunSpec

CLEAR = 3.0  # times what two solutions differ, from where on an error tells of the solver


def order_of(spec: RunSpec) -> int | None:
    """The order of its solver over a whole run, None where that is not known."""
    row = SOLVERS.get(spec.solver.name) if spec.solver.path is None else None
    return row.expected_order or None if row else None


def floors(record: Record, metric: str) -> dict[str, Floor]:
    """Levels of a solver error near which it does not tell of the solver, by what they are."""
    if not solver_errors([metric]):
        return {}
    made, check, run = record.converged, record.converged["check"], record.run_spec
    level = check[metric]
    named = f"{made['num_steps']} and {check['num_steps']} steps of {made['solver']} differ by so much"
    found = {named: Floor(level, CLEAR * level)}
    if not run.solver.denoise_to_zero:
        low = run.schedule.sigma_min
        # The noise that is left has at most this root mean square.
        found[f"noise level {low:g}, where runs without a last step end"] = Floor(low, low)
    return found


def of_solution(records: Sequence[Record], metric: str) -> list[str]:
    """Which solutions a table's solver errors are distances to, and how converged they are."""
    if not solver_errors([metric]):
        return []
    found = {
        f"solver errors are distances to the solution by {record.solution} ({made['run_id']}); "
        f"{made['check']['num_steps']} steps are {made['check'][metric]:.2g} away from it": None
        for record, made in ((record, record.converged) for record in records)
    }
    return list(found)
