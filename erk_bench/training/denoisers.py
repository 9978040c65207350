"""Training of EDM2 denoisers: the recipe, one iteration, and a state that can be put down and taken up.

Source: EDM2 (arXiv 2312.02696): loss with learned uncertainty (eq. 21), forced weight normalisation,
inverse-square-root learning rate, power-function weight average (section 3).
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.networks.denoiser import EDMPreconditioned
from erk_bench.networks.edm2 import EDM2Network


@dataclass(frozen=True)
class DenoiserRecipe:
    """How one denoiser is trained; fields as in configs/train/digits.yaml."""

    seed: int
    conditional: bool
    model_channels: int
    iterations: int
    channel_mult: tuple[int, ...]
    num_blocks: int
    attn_resolutions: tuple[int, ...]
    channels_per_head: int
    batch_size: int
    learning_rate: float
    decay_after: int
    warm_up: int
    p_mean: float
    p_std: float
    ema_std: float
    more_ema_stds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_least(self, ("iterations", "batch_size", "model_channels"))

    def init_kwargs(self, resolution: int, channels: int, num_classes: int) -> dict[str, Any]:
        """Constructor arguments of the network for pictures of this kind."""
        return {
            "img_resolution": resolution,
            "img_channels": channels,
            "label_dim": num_classes if self.conditional else 0,
            "model_channels": self.model_channels,
            "channel_mult": list(self.channel_mult),
            "num_blocks": self.num_blocks,
            "attn_resolutions": list(self.attn_resolutions),
            "channels_per_head": self.channels_per_head,
        }

    def written(self) -> dict[str, Any]:
        """Its fields as files hold them."""
        return written(self)


def check_least(recipe: Any, names: Sequence[str]) -> None:
    """Raises UserError where one of these fields is less than 1."""
    for name in names:
        if getattr(recipe, name) < 1:
            raise UserError(f"{name} is {getattr(recipe, name)}; it must be 1 or more")


def written(recipe: Any) -> dict[str, Any]:
    """A recipe's fields as files hold them; one that has a default is left out where it is that."""
    defaults = {field.name: field.default for field in fields(recipe)}
    return {name: value for name, value in asdict(recipe).items() if value != defaults[name]}


def ema_exponent(relative_std: float) -> float:
    """Exponent gamma of a power-function average of that relative width (arXiv 2312.02696, section 3)."""
    inverse = relative_std**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def edm2_loss(net: EDM2Network, clean: Tensor, noise: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
    """EDM2's training loss per element, NCHW (eq. 21): weighted error over the learned variance."""
    weight = (sigma**2 + net.sigma_data**2) / (sigma * net.sigma_data) ** 2
    logvar = net.logvar(sigma)
    error = (EDMPreconditioned(net)(clean + sigma * noise, sigma, labels) - clean) ** 2
    return weight / logvar.exp() * error + logvar


class DenoiserTraining:
    """A training under way: the network, its averages and the optimiser, all on the CPU.

    clean: float32 [N, C, R, R] in network space. classes: int64 [N]. The numbers come from torch's global
    generator, so one process trains one network at a time. `losses` holds the loss of every iteration.
    """

    def __init__(self, recipe: DenoiserRecipe, clean: Tensor, classes: Tensor, num_classes: int) -> None:
        if recipe.conditional and not num_classes:
            raise UserError(
                "conditional is true, but the pictures have no classes; put each class in a folder of "
                "its own, or set denoiser.conditional=false and weaker.conditional=false"
            )
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.clean = clean
        self.labels = F.one_hot(classes, max(num_classes, 1)).float()
        self.pictures_sha256 = _sha256(clean, classes)
        self.init_kwargs = recipe.init_kwargs(clean.shape[-1], clean.shape[1], num_classes)
        self.net = EDM2Network(**self.init_kwargs)
        self.averages = {
            width: {name: value.detach().clone() for name, value in self.net.state_dict().items()}
            for width in (recipe.ema_std, *recipe.more_ema_stds)
        }
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99))
        self.losses: list[float] = []
        self.seconds = 0.0

    @property
    def average(self) -> dict[str, Tensor]:
        """The averaged weights of the recipe's ema_std, float32."""
        return self.averages[self.recipe.ema_std]

    def recent_loss(self, count: int) -> float:
        """The mean loss of the last `count` iterations."""
        recent = self.losses[-count:]
        return sum(recent) / len(recent)

    @property
    def iteration(self) -> int:
        """How many iterations are done."""
        return len(self.losses)

    def step(self) -> None:
        """One iteration. Raises UserError where the loss is no longer finite."""
        recipe, iteration = self.recipe, self.iteration + 1
        rate = recipe.learning_rate * min(iteration / recipe.warm_up, 1)
        rate /= math.sqrt(max(iteration / recipe.decay_after, 1))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.net.force_normalize()
        index = torch.randint(len(self.clean), (recipe.batch_size,))
        clean = self.clean[index]
        sigma = (torch.randn(recipe.batch_size, 1, 1, 1) * recipe.p_std + recipe.p_mean).exp()
        noise = torch.randn_like(clean)
        loss = edm2_loss(self.net, clean, noise, sigma, self.labels[index]).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not math.isfinite(loss.item()):
            raise UserError(f"training diverged at iteration {iteration} (loss {loss.item()})")
        self.optimizer.step()
        for width, average in self.averages.items():
            decay = (1 - 1 / iteration) ** (ema_exponent(width) + 1)
            for name, value in self.net.state_dict().items():
                average[name].lerp_(value, 1 - decay)
        self.losses.append(loss.item())

    def state_bytes(self) -> bytes:
        """All that `load_state` needs to go on as if nothing had happened."""
        buffer = io.BytesIO()
        state = {
            "recipe": _identity(self),
            "network": self.net.state_dict(),
            "averages": self.averages,
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses,
            "seconds": self.seconds,
            "random": torch.get_rng_state(),
        }
        torch.save(state, buffer)
        return buffer.getvalue()

    def load_state(self, content: bytes, place: str) -> None:
        """Take up a training that was put down; place: of it, for messages.

        Raises UserError if it was one of another recipe or other pictures, or longer, and for a damaged file.
        """
        try:
            state = torch.load(io.BytesIO(content), weights_only=True)
            found, length = state["recipe"], len(state["losses"])
        except (RuntimeError, LookupError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise UserError(f"'{place}' is no training to go on with; delete it to begin anew") from error
        mine = _identity(self)
        other = [name for name in mine if mine[name] != found.get(name)]
        if other:
            raise UserError(
                f"'{place}' is of a training with another {other[0]} ({found.get(other[0])}, not "
                f"{mine[other[0]]}); choose another out=, or delete it to begin anew"
            )
        if length > self.recipe.iterations:
            raise UserError(
                f"'{place}' is after iteration {length}, and iterations is {self.recipe.iterations}; raise "
                "it, or delete the file to begin anew"
            )
        self.net.load_state_dict(state["network"])
        self.averages = state["averages"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses = state["losses"]
        self.seconds = state["seconds"]
        torch.set_rng_state(state["random"])


def _identity(training: DenoiserTraining) -> dict[str, Any]:
    """What a training's numbers depend on: its recipe without the number of iterations, and its pictures."""
    content = {**asdict(training.recipe), "pictures": training.pictures_sha256}
    del content["iterations"]
    return content


def _sha256(clean: Tensor, classes: Tensor) -> str:
    digest = hashlib.sha256(str(tuple(clean.shape)).encode())
    for each in (clean, classes):
        digest.update(each.contiguous().numpy().tobytes())
    return digest.hexdigest()
