"""`erk-bench train-digits`: the networks of the digits track, three EDM2 denoisers and the feature network.

Source of the denoiser recipe: EDM2 (arXiv 2312.02696): loss with learned uncertainty (eq. 21), forced weight
normalisation, inverse-square-root learning rate, power-function weight average (section 3).
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.fields import build
from erk_bench.base.files import write_atomic
from erk_bench.base.processes import end_with_parent
from erk_bench.digits import data
from erk_bench.digits.classifier import DigitsClassifier
from erk_bench.networks.checkpoint import Checkpoint, write_checkpoint
from erk_bench.networks.denoiser import EDMPreconditioned
from erk_bench.networks.edm2 import EDM2Network


@dataclass(frozen=True)
class DenoiserRecipe:
    """How one denoiser is trained; fields as in configs/train_digits.yaml."""

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

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "model_channels"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be 1 or more")

    def init_kwargs(self) -> dict[str, Any]:
        """Constructor arguments of the network."""
        return {
            "img_resolution": data.RESOLUTION,
            "img_channels": 1,
            "label_dim": data.NUM_CLASSES if self.conditional else 0,
            "model_channels": self.model_channels,
            "channel_mult": list(self.channel_mult),
            "num_blocks": self.num_blocks,
            "attn_resolutions": list(self.attn_resolutions),
            "channels_per_head": self.channels_per_head,
        }


@dataclass(frozen=True)
class FeaturesRecipe:
    """How the feature network is trained; fields as in configs/train_digits.yaml."""

    seed: int
    epochs: int
    batch_size: int
    learning_rate: float
    label_smoothing: float
    rotation: float
    translation: float
    scale: float
    num_test: int

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "num_test"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be 1 or more")


Recipe = DenoiserRecipe | FeaturesRecipe
Report = Callable[[str], None]


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


def train_denoiser(recipe: DenoiserRecipe, report: Report) -> tuple[Checkpoint, dict[str, Any]]:
    """Train one denoiser; the checkpoint holds the averaged weights."""
    torch.manual_seed(recipe.seed)
    images, classes = data.load_digits()
    clean = data.encode(images)
    labels = F.one_hot(classes, data.NUM_CLASSES).float()
    net = EDM2Network(**recipe.init_kwargs())
    average = {name: value.detach().clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.Adam(net.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99))
    gamma = ema_exponent(recipe.ema_std)
    curve = []
    recent = 0.0
    for iteration in range(1, recipe.iterations + 1):
        rate = recipe.learning_rate * min(iteration / recipe.warm_up, 1)
        rate /= math.sqrt(max(iteration / recipe.decay_after, 1))
        for group in optimizer.param_groups:
            group["lr"] = rate
        net.force_normalize()
        index = torch.randint(len(clean), (recipe.batch_size,))
        sigma = (torch.randn(recipe.batch_size, 1, 1, 1) * recipe.p_std + recipe.p_mean).exp()
        noise = torch.randn_like(clean[index])
        loss = edm2_loss(net, clean[index], noise, sigma, labels[index]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not math.isfinite(loss.item()):
            raise UserError(f"training diverged at iteration {iteration} (loss {loss.item()})")
        optimizer.step()
        decay = (1 - 1 / iteration) ** (gamma + 1)
        for name, value in net.state_dict().items():
            average[name].lerp_(value, 1 - decay)
        recent += loss.item()
        every = max(recipe.iterations // 20, 1)
        if iteration % every == 0:
            curve.append({"iteration": iteration, "loss": round(recent / every, 4)})
            report(f"{iteration}/{recipe.iterations} loss {recent / every:.4f}")
            recent = 0.0
    note = json.dumps({"recipe": asdict(recipe)}, sort_keys=True)
    checkpoint = Checkpoint("Precond", recipe.init_kwargs(), average, source_sha256="", note=note)
    return checkpoint, {"loss": curve, "parameters": sum(p.numel() for p in net.parameters())}


def _augment(images: Tensor, recipe: FeaturesRecipe) -> Tensor:
    """A random mild rotation, translation and scaling of each image."""
    count = len(images)

    def uniform() -> Tensor:
        return torch.rand(count) * 2 - 1

    angle = uniform() * math.radians(recipe.rotation)
    zoom = 1 + uniform() * recipe.scale
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    shift_x, shift_y = (2 * recipe.translation * uniform() for _ in range(2))
    affine = torch.stack([torch.stack([cos, -sin, shift_x], 1), torch.stack([sin, cos, shift_y], 1)], dim=1)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False, padding_mode="border")


def train_features(recipe: FeaturesRecipe, report: Report) -> tuple[DigitsClassifier, dict[str, Any]]:
    """Train the classifier on all but `num_test` digits and measure its accuracy on those."""
    torch.manual_seed(recipe.seed)
    images, classes = data.load_digits()
    pixels = images.float()
    order = torch.randperm(len(pixels))
    test, train = order[: recipe.num_test], order[recipe.num_test :]
    net = DigitsClassifier()
    optimizer = torch.optim.Adam(net.parameters(), lr=recipe.learning_rate)
    steps = recipe.epochs * math.ceil(len(train) / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(recipe.epochs):
        for index in train[torch.randperm(len(train))].split(recipe.batch_size):
            _, logits = net(_augment(pixels[index], recipe))
            loss = F.cross_entropy(logits, classes[index], label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        accuracy = (net(pixels[test])[1].argmax(1) == classes[test]).double().mean().item()
    report(f"{recipe.epochs} epochs, accuracy on {recipe.num_test} held-out digits {accuracy:.4f}")
    return net, {"test_accuracy": accuracy, "num_test": recipe.num_test}


def train_one(name: str, recipe: Recipe, out: Path) -> str:
    """Train one network, write NAME.safetensors and its training record NAME.json; returns a summary."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    last: list[str] = []

    def report(line: str) -> None:
        last[:] = [line]
        print(f"{name}: {line}", flush=True)

    path = out / f"{name}.safetensors"
    if isinstance(recipe, DenoiserRecipe):
        checkpoint, measured = train_denoiser(recipe, report)
        write_checkpoint(path, checkpoint)
    else:
        net, measured = train_features(recipe, report)
        note = json.dumps({"recipe": asdict(recipe)}, sort_keys=True)
        write_atomic(path, safetensors_bytes(net.state_dict(), {"erk_bench": note}))
    record = {
        "network": name,
        "recipe": asdict(recipe),
        **measured,
        "wall_seconds": round(time.perf_counter() - start, 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    write_atomic(out / f"{name}.json", (json.dumps(record, indent=2) + "\n").encode())
    return f"{name}: {last[0]}"


def train_all(recipes: Mapping[str, Recipe], out: Path, workers: int) -> list[str]:
    """Train the named networks, `workers` at a time, each in its own single-threaded process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool:
        jobs = [pool.submit(train_one, name, recipe, out) for name, recipe in recipes.items()]
        return [job.result() for job in as_completed(jobs)]


def train_digits(content: Mapping[str, Any]) -> int:
    """Train the named digits networks and write them with their training records."""
    known = ("denoiser", "unconditional", "weaker", "features")
    shared = {
        key: value for key, value in content.items() if key not in (*known, "out", "networks", "workers")
    }
    recipes: dict[str, Recipe] = {}
    if not isinstance(content["networks"], list):
        raise UserError(f"networks is {content['networks']!r}; write networks=[denoiser,weaker]")
    for name in content["networks"]:
        if name not in known:
            raise unknown_name("network", name, known)
        if not isinstance(content[name], Mapping):
            raise UserError(f"{name} is {content[name]!r}; set its fields, such as {name}.seed=5")
        if name == "features":
            recipes[name] = build(FeaturesRecipe, content[name], name)
        else:
            recipes[name] = build(DenoiserRecipe, {**shared, **content[name]}, name)
    if not recipes:
        raise UserError(f"networks is empty; name some of: {', '.join(known)}")
    workers = content["workers"] or os.cpu_count() or 1
    if not isinstance(workers, int) or workers < 1:
        raise UserError(f"workers is {workers!r}; it must be 1 or more, or null for one per CPU core")
    out = Path(content["out"])
    for line in train_all(recipes, out, min(workers, len(recipes))):
        print(line)
    print(f"networks and training records: {out}")
    return 0
