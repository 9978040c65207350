"""ERK-Guid in diffusers: equal to diffusers' own at zero, to `erk_bench.sample` where both can go."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from erk_bench import sample
from erk_bench.base.errors import UserError
from erk_bench.diffusers import ERKGuidDPMSolverScheduler, ERKGuidHeunScheduler

SHAPE = (3, 4, 8, 8)
# Two prior solutions: data of standard deviation 0.1 in the first two channels, 1 in the others.
SPREAD = torch.tensor([0.1, 0.1, 1.0, 1.0]).reshape(1, 4, 1, 1)


def denoised(x: Tensor, sigma: float | Tensor, labels: Tensor | None = None) -> Tensor:
    """Of data that are not Gaussian: a Gaussian's, with a ripple that makes the Jacobian vary."""
    sigma = torch.as_tensor(sigma).reshape(-1, 1, 1, 1)
    mean = x * SPREAD**2 / (SPREAD**2 + sigma**2)
    return mean + 0.05 * torch.sin(3 * mean)


def noise() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def driven(scheduler: Any, steps: int, x: Tensor) -> Tensor:
    """What a pipeline does, with a denoiser in place of a network; x is unit noise."""
    scheduler.set_timesteps(steps)
    state = x * scheduler.init_noise_sigma
    config = scheduler.config
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(state, t)
        index = scheduler.step_index if scheduler.step_index is not None else 0
        sigma = scheduler.sigmas[index]
        if config.get("use_flow_sigmas"):
            alpha = 1 - sigma
            level = sigma / alpha
        else:
            alpha, level = 1 / (1 + sigma**2).sqrt(), sigma
        clean = denoised(seen / alpha, level)
        eps = (seen / alpha - clean) / level
        output = {
            "epsilon": eps,
            "sample": clean,
            "v_prediction": alpha * eps - alpha * level * clean,
            "flow_prediction": eps - clean,
        }[config.prediction_type].to(state.dtype)  # as a network of that dtype gives it
        state = scheduler.step(output, t, state, return_dict=False)[0]
    return state


HEUN: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
DPM: dict[str, Any] = {**HEUN, "lower_order_final": True}
FLOW: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_heun_without_strength_is_diffusers_own(prediction: str) -> None:
    options = {**HEUN, "prediction_type": prediction}
    theirs = driven(diffusers.HeunDiscreteScheduler(**options), 10, noise())
    ours = driven(ERKGuidHeunScheduler(**options, w_stiff=0.0, w_con=0.3), 10, noise())
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(
        driven(ERKGuidHeunScheduler(**options, w_stiff=0.7), 10, noise()), theirs, atol=1e-4
    )


@pytest.mark.parametrize("steps", [9, 10])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prediction_type": "v_prediction"},
        {"prediction_type": "sample"},
        {"solver_type": "heun"},
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
        FLOW,
    ],
)
def test_dpm_solver_without_strength_is_diffusers_own(options: dict[str, Any], steps: int) -> None:
    options = {**DPM, **options}
    theirs = driven(diffusers.DPMSolverSinglestepScheduler(**options), steps, noise())
    ours = driven(ERKGuidDPMSolverScheduler(**options, w_stiff=0.0, w_con=0.3), steps, noise())
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    changed = driven(ERKGuidDPMSolverScheduler(**options, w_stiff=0.7, w_con=0.0), steps, noise())
    assert changed.isfinite().all() and not torch.allclose(changed, theirs, atol=1e-4)


@pytest.mark.parametrize(("w_stiff", "w_con"), [(0.0, 0.0), (0.5, 0.0), (1.0, 0.4)])
def test_heun_is_what_sample_gives(w_stiff: float, w_con: float) -> None:
    """The same noise levels, a last step to zero: one formula, two ways to drive it."""
    scheduler = ERKGuidHeunScheduler(**HEUN, w_stiff=w_stiff, w_con=w_con)
    found = driven(scheduler, 8, noise())
    levels = scheduler.sigmas.tolist()
    sigmas = [levels[0], *levels[1:-1:2]]
    start = noise() * scheduler.init_noise_sigma / sigmas[0]
    expected = sample(
        denoised, start, solver="heun", sigmas=sigmas, denoise_to_zero=True, w_stiff=w_stiff, w_con=w_con
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("w_stiff", "w_con"), [(0.0, 0.0), (0.5, 0.0), (1.0, 0.4)])
def test_dpm_solver_is_what_sample_gives(w_stiff: float, w_con: float) -> None:
    """On levels of equal ratios diffusers' midpoint is that of r = 1/2."""
    scheduler = ERKGuidDPMSolverScheduler(
        **HEUN, algorithm_type="dpmsolver", final_sigmas_type="sigma_min", use_exponential_sigmas=True,
        w_stiff=w_stiff, w_con=w_con,
    )  # fmt: skip
    found = driven(scheduler, 10, noise())
    levels = scheduler.sigmas.tolist()
    assert levels[-1] == levels[-2]  # nothing below sigma_min: the last step stands still
    scheduled = levels[0:-1:2]
    last_alpha = 1 / math.sqrt(1 + levels[-1] ** 2)
    # diffusers starts from unit noise, whose level in these coordinates is sqrt(1 + sigma^2).
    start = noise() * math.sqrt(1 + levels[0] ** 2) / levels[0]
    by_hand = sample(
        denoised, start, solver="dpm2", sigmas=scheduled, denoise_to_zero=False, w_stiff=w_stiff, w_con=w_con
    )
    short = ERKGuidDPMSolverScheduler.from_config(scheduler.config)
    short.set_timesteps(10)
    state = noise()
    for number, t in enumerate(short.timesteps[: 2 * (len(scheduled) - 1)]):
        sigma = short.sigmas[number]
        alpha = 1 / (1 + sigma**2).sqrt()
        eps = (state / alpha - denoised(state / alpha, sigma)) / sigma
        state = short.step(eps, t, state, return_dict=False)[0]
    end = math.sqrt(1 + scheduled[-1] ** 2)
    torch.testing.assert_close(state * end, by_hand, rtol=1e-4, atol=1e-4)
    assert found.isfinite().all() and last_alpha > 0


@pytest.mark.parametrize("make", [ERKGuidHeunScheduler, ERKGuidDPMSolverScheduler])
def test_samples_of_a_batch_are_independent(make: Any) -> None:
    options = {**HEUN, "w_stiff": 0.7, "w_con": 0.1}
    together = driven(make(**options), 8, noise())
    alone = torch.cat([driven(make(**options), 8, each[None]) for each in noise()])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [ERKGuidHeunScheduler, ERKGuidDPMSolverScheduler])
def test_a_second_trajectory_knows_nothing_of_the_first(make: Any) -> None:
    scheduler = make(**HEUN, w_stiff=0.7)
    first = driven(scheduler, 8, noise())
    assert torch.equal(driven(scheduler, 8, noise()), first)


def settings_of(scheduler: Any) -> dict[str, Any]:
    return {key: value for key, value in scheduler.config.items() if not key.startswith("_")}


@pytest.mark.parametrize("make", [ERKGuidHeunScheduler, ERKGuidDPMSolverScheduler])
def test_config_is_taken_kept_and_read(make: Any, tmp_path: Path) -> None:
    theirs = diffusers.DPMSolverMultistepScheduler(**HEUN, solver_order=2)
    ours = make.from_config(theirs.config, w_stiff=0.5, w_con=0.3)
    assert ours.config.beta_end == 0.012 and (ours.config.w_stiff, ours.config.w_con) == (0.5, 0.3)
    ours.save_pretrained(tmp_path)
    again = make.from_pretrained(tmp_path)
    kept, read = (
        {key: value for key, value in each.config.items() if not key.startswith("_")}
        for each in (ours, again)
    )
    assert read == kept
    assert torch.equal(driven(again, 6, noise()), driven(ours, 6, noise()))
    # And back to one of diffusers'.
    assert diffusers.HeunDiscreteScheduler.from_config(ours.config).config.beta_end == 0.012


@pytest.mark.parametrize(
    ("make", "options", "told"),
    [
        (ERKGuidHeunScheduler, {"prediction_type": "flow_prediction"}, "ERKGuidDPMSolverScheduler serves"),
        (ERKGuidHeunScheduler, {"prediction_type": "x0"}, "serves epsilon, v_prediction and sample"),
        (ERKGuidHeunScheduler, {"w_stiff": -1.0}, "w_stiff is -1"),
        (ERKGuidDPMSolverScheduler, {"w_con": math.nan}, "w_con is nan"),
        (ERKGuidDPMSolverScheduler, {"prediction_type": "eps"}, "epsilon"),
        (ERKGuidDPMSolverScheduler, {"prediction_type": "flow_prediction"}, "go together"),
        (ERKGuidDPMSolverScheduler, {"use_flow_sigmas": True}, "go together"),
        (ERKGuidDPMSolverScheduler, {"solver_order": 3, "w_stiff": 1.0}, "solver_order=2"),
        (ERKGuidDPMSolverScheduler, {"algorithm_type": "sde-dpmsolver++", "w_stiff": 1.0}, "deterministic"),
    ],
)
def test_settings_that_cannot_be_served(make: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        make(**options)


# Pipelines of diffusers with random weights.


def vae() -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, sample_size=16,
    ).eval()  # fmt: skip


def stable_diffusion() -> tuple[Any, dict[str, Any]]:
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16, attention_head_dim=4,
    ).eval()  # fmt: skip
    scheduler = diffusers.PNDMScheduler(**HEUN, skip_prk_steps=True)
    pipe = diffusers.StableDiffusionPipeline(
        vae(), None, None, unet, scheduler, None, None, requires_safety_checker=False
    )
    return pipe, {
        "prompt_embeds": torch.randn(2, 7, 16), "negative_prompt_embeds": torch.randn(2, 7, 16),
        "height": 16, "width": 16, "guidance_scale": 4.0, "output_type": "latent",
    }  # fmt: skip


def pixart() -> tuple[Any, dict[str, Any]]:
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=2, in_channels=4,
        out_channels=8, caption_channels=16, cross_attention_dim=16, norm_type="ada_norm_single",
    ).eval()  # fmt: skip
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.3)
    scheduler = diffusers.DPMSolverMultistepScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    pipe = diffusers.PixArtAlphaPipeline(None, None, vae(), transformer, scheduler)
    mask = torch.ones(2, 7, dtype=torch.int64)
    return pipe, {
        "prompt_embeds": torch.randn(2, 7, 16), "negative_prompt_embeds": torch.randn(2, 7, 16),
        "prompt_attention_mask": mask, "negative_prompt_attention_mask": mask, "negative_prompt": None,
        "height": 16, "width": 16, "guidance_scale": 4.0, "output_type": "latent",
        "use_resolution_binning": False,
    }  # fmt: skip


def dit() -> tuple[Any, dict[str, Any]]:
    transformer = diffusers.DiTTransformer2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=2, in_channels=4,
        out_channels=8, num_embeds_ada_norm=1000, norm_type="ada_norm_zero",
    ).eval()  # fmt: skip
    pipe = diffusers.DiTPipeline(transformer, vae(), diffusers.DDIMScheduler(beta_schedule="linear"))
    return pipe, {"class_labels": [3, 7], "guidance_scale": 4.0, "output_type": "np"}


PIPELINES = {"stable_diffusion": stable_diffusion, "pixart": pixart, "dit": dit}
OWN: dict[Any, Any] = {
    ERKGuidHeunScheduler: diffusers.HeunDiscreteScheduler,
    ERKGuidDPMSolverScheduler: diffusers.DPMSolverSinglestepScheduler,
}


def drawn(pipe: Any, settings: dict[str, Any], seeds: tuple[int, ...] = (0, 1)) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    images = pipe(**settings, num_inference_steps=6, generator=generators).images
    return torch.as_tensor(images)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("make", OWN)
@pytest.mark.parametrize("name", PIPELINES)
def test_pipelines(name: str, make: Any) -> None:
    """Drop-in with classifier-free guidance: equal at w_stiff 0, another image above, each by itself."""
    torch.manual_seed(0)
    pipe, settings = PIPELINES[name]()
    config = pipe.scheduler.config
    pipe.scheduler = OWN[make].from_config(config)
    theirs = drawn(pipe, settings)
    pipe.scheduler = make.from_config(config, w_stiff=0.0, w_con=0.3)
    torch.testing.assert_close(drawn(pipe, settings), theirs, rtol=1e-5, atol=1e-5)
    pipe.scheduler = make.from_config(config, w_stiff=1.0, w_con=0.0)
    changed = drawn(pipe, settings)
    assert changed.shape == theirs.shape and changed.isfinite().all()
    assert (changed - theirs).abs().max() > 1e-4
    if name == "dit":  # draws its noise from one generator
        return
    one = {
        key: value[1:] if isinstance(value, Tensor) and len(value) == 2 else value
        for key, value in settings.items()
    }
    torch.testing.assert_close(drawn(pipe, one, (1,)), changed[1:], rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_pipeline_is_kept_with_its_scheduler(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pipe, settings = dit()
    pipe.scheduler = ERKGuidDPMSolverScheduler.from_config(pipe.scheduler.config, w_stiff=0.5, w_con=0.2)
    pipe.save_pretrained(tmp_path)
    again = diffusers.DiTPipeline.from_pretrained(tmp_path)
    assert isinstance(again.scheduler, ERKGuidDPMSolverScheduler)
    assert settings_of(again.scheduler) == settings_of(pipe.scheduler)
    assert torch.equal(drawn(again, settings), drawn(pipe, settings))


@pytest.mark.parametrize("make", OWN)
def test_signatures_are_diffusers_own(make: Any) -> None:
    """Pipelines read there what a scheduler takes; the strengths come last."""
    own, parent = (inspect.signature(each.__init__) for each in (make, OWN[make]))
    shared = list(parent.parameters.values())
    names = list(own.parameters)[len(shared) :]
    assert names == ["w_stiff", "w_con"] and own.return_annotation == parent.return_annotation
    assert [own.parameters[name] for name in parent.parameters] == shared
    assert list(own.parameters)[: len(shared)] == list(parent.parameters)
    public = [name for name in dir(make) if not name.startswith("_") and callable(getattr(make, name))]
    assert {"set_timesteps", "step", "add_noise", "scale_model_input", "set_begin_index"} & set(public)
    for name in public:
        assert inspect.signature(getattr(make, name)) == inspect.signature(getattr(OWN[make], name)), name


EXACT: dict[Any, list[dict[str, Any]]] = {
    ERKGuidHeunScheduler: [
        {"prediction_type": kind, **more}
        for kind in ("epsilon", "v_prediction", "sample")
        for more in ({}, {"clip_sample": True}, {"use_karras_sigmas": True})
    ],
    ERKGuidDPMSolverScheduler: [
        *(
            {"prediction_type": kind, **more}
            for kind in ("epsilon", "v_prediction", "sample")
            for more in (
                {}, {"solver_type": "heun"}, {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
            )
        ),
        FLOW,
    ],
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("make", "options"), [(make, each) for make in OWN for each in EXACT[make]])
def test_with_the_gate_shut_it_is_diffusers_own_to_the_last_bit(
    make: Any, options: dict[str, Any], dtype: torch.dtype
) -> None:
    options = {**HEUN, **options}
    x = noise().to(dtype)
    theirs = driven(OWN[make](**options), 10, x)
    assert theirs.dtype == dtype
    for strengths in ({"w_stiff": 0.0}, {"w_stiff": 0.0, "w_con": 0.0}, {"w_stiff": 0.9, "w_con": 1e30}):
        ours = driven(make(**options, **strengths), 10, x)
        assert ours.dtype == dtype and torch.equal(ours, theirs), strengths
    opened = driven(make(**options, w_stiff=0.9, w_con=0.0), 10, x)
    assert opened.dtype == dtype and opened.isfinite().all() and not torch.equal(opened, theirs)


@pytest.mark.parametrize("make", OWN)
def test_float64_states_are_as_exact_as_sample(make: Any) -> None:
    """The correction of a float64 state is float64: it sees a change of 1e-12."""
    options = {**HEUN, "w_stiff": 0.7, "w_con": 0.0}
    x = noise().double()
    found = driven(make(**options), 8, x)
    near = driven(make(**options), 8, x * (1 + 1e-12))
    rounded = driven(make(**options), 8, x.float())
    assert 0 < (found - near).abs().max() < 1e-9
    assert 1e-9 < (found - rounded.double()).abs().max() < 1e-3


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("make", OWN)
@pytest.mark.parametrize("name", ["stable_diffusion", "pixart"])
def test_pipelines_take_custom_timesteps(name: str, make: Any) -> None:
    torch.manual_seed(0)
    pipe, settings = PIPELINES[name]()
    config = pipe.scheduler.config
    settings = {**settings, "timesteps": [900, 700, 400, 250, 100, 20], "num_inference_steps": None}
    found = {}
    for kind, strengths in (
        (OWN[make], {}),
        (make, {"w_stiff": 0.0}),
        (make, {"w_stiff": 1.0, "w_con": 0.0}),
    ):
        pipe.scheduler = kind.from_config(config, **strengths)
        pipe.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
        found[str(strengths)] = pipe(**settings, generator=generators).images
        assert pipe.scheduler.timesteps.unique().tolist() == [20, 100, 250, 400, 700, 900]
    theirs, plain, guided = found.values()
    assert torch.equal(plain, theirs) and not torch.equal(guided, theirs) and guided.isfinite().all()
    # Neither parent takes sigmas, and the pipeline says so for ours as for theirs.
    with pytest.raises((ValueError, TypeError), match="sigmas"):
        pipe(**{**settings, "timesteps": None, "sigmas": [10.0, 1.0, 0.1]})


@pytest.mark.parametrize("make", OWN)
def test_a_sample_whose_gate_is_shut_is_diffusers_own_beside_one_whose_gate_is_open(make: Any) -> None:
    x = noise()[:2] * torch.tensor([1.0, 5.0]).reshape(2, 1, 1, 1)
    theirs = driven(OWN[make](**HEUN), 8, x)
    seen = set()
    for w_con in torch.logspace(-1, 1, 40).tolist():
        ours = driven(make(**HEUN, w_stiff=0.9, w_con=w_con), 8, x)
        seen.add(tuple(not torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)))
    assert {(True, True), (False, False)} < seen
