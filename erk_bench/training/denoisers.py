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

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.networks.denoiser import EDMPreconditioned
from erk_bench.networks.edm2 import EDM2Network

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}  # in which a network computes in training
READ_EVERY = 100  # iterations after which losses are read from a GPU, for which one has to wait


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
    device: str = "cpu"
    dtype: str = "float32"
    compiled: bool = False

    def __post_init__(self) -> None:
        check_least(self, ("iterations", "batch_size", "model_channels"))
        if self.dtype not in DTYPES:
            raise unknown_name("dtype", self.dtype, DTYPES)
        if self.dtype != "float32" and self.device == "cpu":
            raise UserError(
                f"dtype is '{self.dtype}', which is for GPUs; on a CPU set dtype=float32 compiled=false"
            )

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
    """A training under way: the network, its averages and the optimiser, all on the recipe's device.

    clean: float32 [N, C, R, R] in network space. classes: int64 [N]. The numbers come from torch's global
    generator of the device, so one process trains one network at a time.
    """

    def __init__(self, recipe: DenoiserRecipe, clean: Tensor, classes: Tensor, num_classes: int) -> None:
        if recipe.conditional and not num_classes:
            raise UserError(
                "conditional is true, but the pictures have no classes; put each class in a folder of "
                "its own, or set denoiser.conditional=false and weaker.conditional=false"
            )
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.device = torch.device(recipe.device)
        self.clean = clean.to(self.device)
        self.labels = F.one_hot(classes, max(num_classes, 1)).float().to(self.device)
        self.pictures_sha256 = _sha256(clean, classes)
        self.init_kwargs = recipe.init_kwargs(clean.shape[-1], clean.shape[1], num_classes)
        self.net = EDM2Network(**self.init_kwargs).to(self.device)
        self.net.compute_dtype = DTYPES[recipe.dtype]
        self.net.keep_filters()
        compiled = torch.compile if recipe.compiled else lambda function: function
        self._loss = compiled(edm2_loss)
        self._force_normalize = compiled(self.net.force_normalize)
        self.averages = {
            width: {name: value.detach().clone() for name, value in self.net.state_dict().items()}
            for width in (recipe.ema_std, *recipe.more_ema_stds)
        }
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99))
        self._losses: list[float] = []
        self._unread: list[Tensor] = []  # losses that may still be under way on a GPU
        self.read_every = 1 if self.device.type == "cpu" else READ_EVERY
        self.seconds = 0.0

    @property
    def average(self) -> dict[str, Tensor]:
        """The averaged weights of the recipe's ema_std, float32."""
        return self.averages[self.recipe.ema_std]

    @property
    def losses(self) -> list[float]:
        """The loss of every iteration. Raises UserError where one is not finite."""
        if self._unread:
            found = torch.stack(self._unread).tolist()
            self._unread.clear()
            for loss in found:
                self._losses.append(loss)
                if not math.isfinite(loss):
                    raise UserError(f"training diverged at iteration {len(self._losses)} (loss {loss})")
        return self._losses

    def recent_loss(self, count: int) -> float:
        """The mean loss of the last `count` iterations."""
        recent = self.losses[-count:]
        return sum(recent) / len(recent)

    @property
    def iteration(self) -> int:
        """How many iterations are done."""
        return len(self._losses) + len(self._unread)

    def step(self) -> None:
        """One iteration. Raises UserError where the loss is no longer finite; a GPU tells that later."""
        recipe, iteration = self.recipe, self.iteration + 1
        rate = recipe.learning_rate * min(iteration / recipe.warm_up, 1)
        rate /= math.sqrt(max(iteration / recipe.decay_after, 1))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._force_normalize()
        index = torch.randint(len(self.clean), (recipe.batch_size,), device=self.device)
        clean = self.clean[index]
        sigma = torch.randn(recipe.batch_size, 1, 1, 1, device=self.device)
        sigma = (sigma * recipe.p_std + recipe.p_mean).exp()
        noise = torch.randn_like(clean)
        loss = self._loss(self.net, clean, noise, sigma, self.labels[index]).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._unread.append(loss.detach())
        if len(self._unread) >= self.read_every:
            _ = self.losses  # refuses one that is not finite
        self.optimizer.step()
        current = self.net.state_dict()
        for width, average in self.averages.items():
            decay = (1 - 1 / iteration) ** (ema_exponent(width) + 1)
            torch._foreach_lerp_([average[name] for name in current], [*current.values()], 1 - decay)

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
            "random": self._random(),
        }
        torch.save(state, buffer)
        return buffer.getvalue()

    def load_state(self, content: bytes, place: str) -> None:
        """Take up a training that was put down; place: of it, for messages.

        Raises UserError if it was one of another recipe or other pictures, or longer, and for a damaged file.
        """
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            found, length = state["recipe"], len(state["losses"])
        except (RuntimeError, LookupError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise UserError(f"'{place}' is no training to go on with; delete it to begin anew") from error
        mine = _identity(self)
        defaults = {field.name: field.default for field in fields(DenoiserRecipe)}  # of what it did not know
        found = {name: found.get(name, defaults.get(name)) for name in mine}
        other = [name for name in mine if mine[name] != found[name]]
        if other:
            raise UserError(
                f"'{place}' is of a training with another {other[0]} ({found[other[0]]}, not "
                f"{mine[other[0]]}); choose another out=, or delete it to begin anew"
            )
        if length > self.recipe.iterations:
            raise UserError(
                f"'{place}' is after iteration {length}, and iterations is {self.recipe.iterations}; raise "
                "it, or delete the file to begin anew"
            )
        self.net.load_state_dict(state["network"])
        self.averages = {
            width: {name: value.to(self.device) for name, value in average.items()}
            for width, average in state["averages"].items()
        }
        self.optimizer.load_state_dict(state["optimizer"])
        self._losses = state["losses"]
        self.seconds = state["seconds"]
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random"], self.device)
        else:
            torch.set_rng_state(state["random"])

    def _random(self) -> Tensor:
        """The state of the generator that its numbers come from."""
        return torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else torch.get_rng_state()


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
