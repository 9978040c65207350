"""Guidances against end points printed by diffusers' guiders, or made from the published formula alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from erk_bench import sample
from tests.conftest import golden, golden_facts
from tests.sampling.test_golden import mixture

GUIDANCES = (
    "apg", "c2fg", "cfg", "cfg_oec", "cfg_zero_star", "fdg", "fitted_cfg", "higs", "interval", "mambo_g",
    "plain_cfg", "power_law", "tcfg",
)  # fmt: skip
RUNS: dict[str, dict[str, Any]] = {
    key: run
    for key, run in golden_facts("methods")["runs"].items()
    if key.split(".")[0] in (*GUIDANCES, "op")
}
TRAJECTORIES = [key for key in RUNS if not key.startswith("op.")]
OPERATORS = [key for key in RUNS if key.startswith("op.")]

# What a run says, as options of the guidance; none for what is the weight's or the solver's.
OPTIONS = {
    "norm_threshold": "norm_threshold", "eta": "eta", "momentum": "momentum", "alpha": "alpha",
    "rate": "rate", "tau": "tau", "zero_init_steps": "zero_steps", "t_min": "t_min", "t_max": "t_max",
    "R_c": "cutoff", "sharpness": "sharpness",
}  # fmt: skip
UNITS = {"d": "denoised", "dspace": "denoised"}


def ours(key: str) -> dict[str, Any]:
    """A golden run as options of `sample`."""
    run, (name, kind, *_) = RUNS[key], key.split(".")
    options = {OPTIONS[option]: value for option, value in run.items() if option in OPTIONS}
    options = {option: value for option, value in options.items() if value is not None}
    weight = run.get("g", run.get("w", run.get("g0")))
    found: dict[str, Any] = {}
    if name == "interval":
        name, found["guidance_interval"] = "cfg", (run["lo"], run["hi"])
    elif name == "plain_cfg":
        name = "cfg"
    elif name == "apg":
        options["form"] = kind
    elif name == "power_law":
        weight, options["units"] = 1 + run["omega"], UNITS.get(kind, kind)
    elif name == "cfg_zero_star":
        options["space"] = UNITS.get(kind, kind)
    elif name == "cfg_oec":
        options["mode"] = kind
    elif name == "fdg":
        (weight, *coarse), parallel = run["scales_high_to_low"], run["parallel_weights"]
        options |= {"coarse": coarse, "parallel": parallel or []}
    elif name == "higs":
        weight, options["strength"] = run["g"], run["w"]
        if run["R_c"] is None:
            options["cutoff"] = -1.0
    solver = next(part for part in key.split(".") if part in ("euler", "heun"))
    return {
        **found, "solver": solver, "num_steps": run["num_steps"], "guidance": weight, "guidance_method": name,
        "guidance_options": options,
    }  # fmt: skip


def tolerance(key: str) -> float:
    """That of README.md beside the numbers: the programs compute scales and singular vectors in float32."""
    name, kind, *_ = key.split(".")
    if name == "tcfg":
        return max(2e-4, 5 * float(RUNS[key]["change_if_noise_moves_1e-10"]))
    if (name, kind) == ("cfg_zero_star", "dspace"):
        return 1e-6
    return max(1e-8, float(RUNS[key]["change_if_noise_moves_1e-10"]))


def rounding(net: Any) -> Any:
    """The network at the noise level rounded to float32."""
    return lambda x, sigma, labels: net(x, sigma.float().double(), labels)


def test_there_are_golden_runs() -> None:
    assert (len(TRAJECTORIES), len(OPERATORS)) == (249, 12)
    assert {key.split(".")[0] for key in TRAJECTORIES} == set(GUIDANCES)


@pytest.mark.parametrize("key", TRAJECTORIES)
def test_analytic_trajectory(key: str) -> None:
    """In float64, within the tolerances that stand beside the numbers."""
    main, guide = mixture("main"), mixture("guide")
    if key.startswith("cfg_oec"):  # these were made with noise levels that the networks saw in float32
        main, guide = rounding(main), rounding(guide)
    x = sample(main, golden("analytic_trajectories")["noise"], guide=guide, dtype=torch.float64, **ours(key))
    assert (x - golden("methods")[key]).abs().max() <= tolerance(key)


OPERATOR_OPTIONS: dict[str, tuple[str, float, dict[str, Any]]] = {
    "apg.paper.4.eta0.2.r15": ("apg", 4.0, {"eta": 0.2, "norm_threshold": 15.0}),
    "cfg_zero_star.3": ("cfg_zero_star", 3.0, {}),
    "tcfg.3": ("tcfg", 3.0, {}),
    "fdg.2levels.5_2": ("fdg", 5.0, {"coarse": [2.0]}),
    "fdg.2levels.5_2.par0.2_0.6": ("fdg", 5.0, {"coarse": [2.0], "parallel": [0.2, 0.6]}),
    "fdg.3levels.6_3_1.5": ("fdg", 6.0, {"coarse": [3.0, 1.5]}),
}


@pytest.mark.parametrize("key", OPERATORS)
def test_one_evaluation(key: str) -> None:
    """On other sizes. Predictions do not depend on the state: the last step to zero gives the guided one.

    diffusers leaves FDG's images larger than they were, where kornia padded them.
    """
    data = golden("methods")
    case = key[: len("op.a")]
    name, weight, options = OPERATOR_OPTIONS[key[len("op.a.") :]]
    main, guide = data[f"{case}.cond"], data[f"{case}.uncond"]

    def given(prediction: Tensor) -> Any:
        return lambda x, sigma, labels: prediction

    x = sample(
        given(main), torch.zeros_like(main), guide=given(guide), solver="euler", sigmas=[1.0, 0.5],
        guidance=weight, guidance_method=name, guidance_options=options,
    )  # fmt: skip
    expected = data[key][..., : main.shape[-2], : main.shape[-1]]
    assert x.shape == main.shape
    assert torch.allclose(x, expected, rtol=0, atol=2e-4 if name == "tcfg" else 1e-5)
