"""Networks of diffusers (DiT and UNet) as raw networks, and what their scheduler says of their training."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from erk_bench.base.extras import need
from erk_bench.networks.denoiser import RawNetwork
from erk_bench.networks.families import FlowFamily
from erk_bench.networks.paths import LinearPath
from erk_bench.networks.positions import grid_embedding

MODELS = ("DiTTransformer2DModel", "UNet2DModel")
PREDICTIONS = {"epsilon": "noise", "v_prediction": "velocity", "sample": "data"}
FLOW_SCHEDULERS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
MAX_TIMES = 100_000
MAX_BETA = 0.999
MOST = {"num_layers": 1000, "layers_per_block": 100}  # more would take long to build


class Process(NamedTuple):
    """How a network was trained to see noise.

    levels: float64, rising, of the discrete process; None is the linear path of flow matching. predicts: as
    in DiscretePath. num_times: how the network counts its times.
    """

    levels: Tensor | None
    predicts: str
    num_times: int


def process_of(scheduler: Mapping[str, Any]) -> Process:
    """What the settings of a scheduler of diffusers say. Raises ValueError for what is not served."""
    name = scheduler.get("_class_name")
    num_times = scheduler.get("num_train_timesteps", 1000)
    if type(num_times) is not int or not 2 <= num_times <= MAX_TIMES:
        raise ValueError(f"num_train_timesteps is {num_times!r}; it must be 2 to {MAX_TIMES}")
    if name in FLOW_SCHEDULERS:
        return Process(None, "velocity", num_times)
    if not {"beta_schedule", "trained_betas"} & scheduler.keys() or scheduler.get("timestep_type") not in (
        None,
        "discrete",
    ):
        raise ValueError(
            f"the scheduler {name!r} has no table of betas; served are those with a beta_schedule (such as "
            f"DDPMScheduler and DDIMScheduler), and {FLOW_SCHEDULERS[0]}"
        )
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction_type is {prediction!r}; served are {', '.join(PREDICTIONS)}")
    # Made on the CPU whatever the default device, for a network without memory has values of its levels too.
    with torch.inference_mode(False), torch.device("cpu"):
        kept = (1 - betas_of(scheduler, num_times)).cumprod(0)
        if scheduler.get("rescale_betas_zero_snr"):
            roots = kept.sqrt()
            kept = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
        levels = ((1 - kept) / kept).sqrt()
        levels = levels[levels.isfinite()]  # without that of pure noise
    if not (len(levels) > 1 and levels[0] > 0 and (levels.diff() > 0).all()):
        raise ValueError("the betas of its scheduler make no rising noise levels; they must be above 0")
    return Process(levels, PREDICTIONS[prediction], num_times)


def betas_of(scheduler: Mapping[str, Any], num_times: int) -> Tensor:
    """The betas, float64 [num_times], by the name of their schedule, or as they are listed."""
    if scheduler.get("trained_betas") is not None:
        return torch.tensor(scheduler["trained_betas"], dtype=torch.float64)
    kind = scheduler.get("beta_schedule", "linear")
    first, last = float(scheduler.get("beta_start", 1e-4)), float(scheduler.get("beta_end", 0.02))
    if kind == "linear":
        return torch.linspace(first, last, num_times, dtype=torch.float64)
    if kind == "scaled_linear":
        return torch.linspace(first**0.5, last**0.5, num_times, dtype=torch.float64) ** 2
    if kind == "sigmoid":
        ramp = torch.linspace(-6, 6, num_times, dtype=torch.float64)
        return ramp.sigmoid() * (last - first) + first
    if kind == "squaredcos_cap_v2":  # arXiv 2102.09672
        t = torch.arange(num_times + 1, dtype=torch.float64) / num_times
        kept = ((t + 0.008) / 1.008 * math.pi / 2).cos() ** 2
        return (1 - kept[1:] / kept[:-1]).clamp(max=MAX_BETA)
    raise ValueError(
        f"beta_schedule is {kind!r}; served are linear, scaled_linear, sigmoid, squaredcos_cap_v2"
    )


class DiffusersNetwork(RawNetwork):
    """A network of diffusers; its state dict has the names of diffusers after "model.".

    model, scheduler: the JSON texts of their settings. img_channels: of the state; learned variances behind
    them are dropped by who calls. null_class: whether the table of classes ends with a row for "any".
    network(x, t, classes) is as that of a DiffusionTransformer, and t of flow matching is 0 to 1.
    """

    noise_scale = 1.0

    def __init__(
        self, model: str, scheduler: str, img_resolution: int, img_channels: int, num_classes: int,
        null_class: bool,
    ) -> None:  # fmt: skip
        super().__init__(img_resolution, img_channels, num_classes, use_fp16=False, sigma_data=1.0)
        process = process_of(json.loads(scheduler))
        self.levels, self.predicts = process.levels, process.predicts
        path = LinearPath(data_time=0) if process.levels is None else None
        self.family = FlowFamily("diffusers", path)
        self.time_scale = process.num_times if process.levels is None else 1
        self.null_class = null_class
        self.model: Any = _built(json.loads(model))

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None, **options: Tensor | None) -> Tensor:
        """The network's output; c_noise is its own time, labels are class numbers."""
        times = (c_noise * self.time_scale).expand(len(x))
        classes = labels.expand(len(x)) if labels is not None and self.num_classes else None
        output: Tensor = self.model(x, times, class_labels=classes, return_dict=False)[0]
        return output

    def fold(
        self,
        compute_dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.preserve_format,
    ) -> Self:
        """Turn to inference; positions, which no file holds, are computed where there is memory for them."""
        self.compute_dtype = compute_dtype
        patches = getattr(self.model, "pos_embed", None)
        if patches is not None and patches.pos_embed.is_meta and not patches.proj.weight.is_meta:
            side = self.img_resolution // self.model.config.patch_size
            width = patches.pos_embed.shape[-1]
            patches.pos_embed = grid_embedding(side, width)[None].to(patches.proj.weight.device)
        nn.Module.to(self.model, compute_dtype)  # diffusers' own warns without need
        return self.eval().requires_grad_(False)

    def use_published_attention(self) -> None:
        """diffusers has no other attention than torch's fused kernels, which are used already."""


def _built(settings: Mapping[str, Any]) -> Any:
    """The network of these settings (Any: diffusers hides the types of its networks)."""
    for name, most in MOST.items():
        if not 0 < settings.get(name, 1) <= most:
            raise ValueError(f"{name} is {settings[name]}; it must be 1 to {most}")
    if settings["_class_name"] not in MODELS:
        raise ValueError(f"unknown class {settings['_class_name']!r}. Known: {', '.join(MODELS)}")
    diffusers = need("diffusers", "a network of diffusers")  # slow to import
    made = getattr(diffusers, settings["_class_name"])
    known = inspect.signature(made.__init__).parameters
    return made.from_config({name: value for name, value in settings.items() if name in known})
