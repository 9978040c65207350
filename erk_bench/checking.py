"""What a run's settings mean together: every name in its table, and every combination that works."""

from __future__ import annotations

from pathlib import Path

from erk_bench.errors import UserError, unknown_name
from erk_bench.evaluation.metrics import detectors_of
from erk_bench.evaluation.reference_sets import REFERENCES
from erk_bench.files import check_path
from erk_bench.networks.latents import DECODERS
from erk_bench.sampling.guidance import CORRECTIONS, GUIDANCES
from erk_bench.sampling.sample import check_paired
from erk_bench.sampling.schedules import SCHEDULES
from erk_bench.spec import RunSpec
from erk_bench.user_solver import facts_of


def check_names(spec: RunSpec) -> None:
    """Refuse a spec that names what no table has, or what cannot work together, before any work.

    No code of a user's own solver file is run.
    """
    check_path("out", Path(spec.out).expanduser())
    for kind, name, table in (
        ("schedule", spec.schedule.name, SCHEDULES),
        ("guidance", spec.guidance.name, GUIDANCES),
        ("correction", spec.correction.name, CORRECTIONS),
        ("decoder", spec.model.decoder, DECODERS),
    ):
        if name not in table:
            raise unknown_name(kind, name, table)
    GUIDANCES[spec.guidance.name].check(spec.guidance.name, spec.guidance.weight, spec.guidance.options)
    if spec.metrics.reference not in REFERENCES and not Path(spec.metrics.reference).suffix:
        raise unknown_name("reference", spec.metrics.reference, [*REFERENCES, "FILE.pkl, .npz, .safetensors"])
    detectors_of(spec.metrics.names)
    solver = facts_of(spec.solver)
    if spec.schedule.num_steps < solver.min_steps:
        raise UserError(
            f"schedule.num_steps is {spec.schedule.num_steps}; solver '{spec.solver.name}' needs "
            f"{solver.min_steps} or more"
        )
    own = {**solver.defaults, **dict(spec.solver.options)}
    latents = DECODERS[spec.model.decoder].factor > 1
    if own.get("thresholding") and own.get("predict") == "denoised" and latents:
        raise UserError(
            f"solver '{spec.solver.name}' thresholds denoised images to [-1, 1], and model "
            f"'{spec.model.name}' works on latents; add solver.thresholding=false"
        )
    if spec.guidance.stateful and solver.adaptive:
        raise UserError(
            f"guidance.momentum is {spec.guidance.momentum:g}, but with solver '{spec.solver.name}' every "
            "sample makes steps of its own; set guidance.momentum=0 or choose another solver"
        )
    if spec.correction.w_stiff:
        check_paired(solver, spec.solver.name, spec.correction.name)
