"""`erk-bench train`: each network of a recipe in its own process; what is begun is gone on with."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.base.fields import build
from erk_bench.base.files import check_path, write_atomic
from erk_bench.base.processes import end_with_parent
from erk_bench.networks.checkpoint import Checkpoint, build_denoiser, write_checkpoint
from erk_bench.reporting.set_sheets import sample as sheet
from erk_bench.runs.device import set_up_device
from erk_bench.sampling.sample import draw, sample
from erk_bench.training.classifiers import FeaturesRecipe, train_features
from erk_bench.training.denoisers import DenoiserRecipe, DenoiserTraining
from erk_bench.training.pictures import Pictures, load_pictures

Recipe = DenoiserRecipe | FeaturesRecipe
NETWORKS = ("denoiser", "unconditional", "weaker", "features")
STORED = {"float32": torch.float32, "float16": torch.float16}
LINE_EVERY_S = 15.0
SHEET = 24  # images


@dataclass(frozen=True)
class TrainingPlan:
    """What all networks of one command share; fields as in configs/train/digits.yaml."""

    images: str | None
    resolution: int
    stored: str
    checkpoint_minutes: float

    def __post_init__(self) -> None:
        if self.stored not in STORED:
            raise unknown_name("stored", self.stored, STORED)
        if not self.checkpoint_minutes >= 0:
            raise UserError(f"checkpoint_minutes is {self.checkpoint_minutes}; it must be 0 or more")


@cache
def _pictures(images: str | None, resolution: int) -> Pictures:
    return load_pictures(images, resolution)


def train_one(
    name: str,
    recipe: Recipe,
    plan: TrainingPlan,
    out: Path,
    stopping: Callable[[int], None] = lambda done: None,
) -> str:
    """Train one network, write NAME.safetensors and its training record NAME.json; returns a summary.

    A denoiser's state is kept in NAME.training until it is done, beside NAME.png, a sheet of its samples.
    stopping: called after each iteration of a denoiser; what it raises ends the training there.
    """
    set_up_device(recipe.device, 0)
    start = time.perf_counter()
    last: list[str] = []

    def report(line: str) -> None:
        last[:] = [line]
        print(f"{name}: {line}", flush=True)

    pictures = _pictures(plan.images, plan.resolution)
    path = out / f"{name}.safetensors"
    note = json.dumps({"recipe": recipe.written()}, sort_keys=True)
    if isinstance(recipe, DenoiserRecipe):
        training = _denoiser(name, recipe, pictures, plan, out, report, stopping)
        write_checkpoint(path, _checkpoint(training, note, STORED[plan.stored]))
        curve = _curve(training)
        measured: dict[str, Any] = {
            "loss": curve,
            "parameters": sum(each.numel() for each in training.net.parameters()),
        }
        seconds = training.seconds
        report(f"{training.iteration} iterations, loss {curve[-1]['loss']:.4f}")
    else:
        net, measured = train_features(recipe, pictures, report)
        weights = _stored(net.state_dict(), STORED[plan.stored])
        write_atomic(path, safetensors_bytes(weights, {"erk_bench": note}))
        seconds = time.perf_counter() - start
    record = {
        "network": name,
        "recipe": recipe.written(),
        **measured,
        "wall_seconds": round(seconds, 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    write_atomic(out / f"{name}.json", (json.dumps(record, indent=2) + "\n").encode())
    (out / f"{name}.training").unlink(missing_ok=True)
    return f"{name}: {last[0]}"


def _denoiser(
    name: str,
    recipe: DenoiserRecipe,
    pictures: Pictures,
    plan: TrainingPlan,
    out: Path,
    report: Callable[[str], None],
    stopping: Callable[[int], None],
) -> DenoiserTraining:
    """A denoiser trained to the end, from where an earlier command left it."""
    training = DenoiserTraining(recipe, pictures.clean, pictures.classes, pictures.num_classes)
    state = out / f"{name}.training"
    if state.is_file():
        training.load_state(state.read_bytes(), str(state))
        report(f"goes on after iteration {training.iteration} of '{state}'")
    begun = kept = told = time.monotonic()
    first = training.iteration
    while training.iteration < recipe.iterations:
        before = time.monotonic()
        training.step()
        now = time.monotonic()
        training.seconds += now - before
        if now - told >= LINE_EVERY_S:
            told = now
            left = (now - begun) / (training.iteration - first) * (recipe.iterations - training.iteration)
            loss = training.recent_loss(20)
            report(
                f"{training.iteration}/{recipe.iterations} iterations, loss {loss:.4f}, "
                f"{int(left // 60)}:{int(left % 60):02d} left"
            )
        if now - kept >= 60 * plan.checkpoint_minutes:
            write_atomic(state, training.state_bytes())
            _write_sheet(out / f"{name}.png", training, pictures)
            kept = time.monotonic()
        stopping(training.iteration)
    before = time.monotonic()
    _ = training.losses  # before anything is written: one that is not finite is refused
    training.seconds += time.monotonic() - before
    _write_sheet(out / f"{name}.png", training, pictures)
    return training


def _checkpoint(training: DenoiserTraining, note: str, dtype: torch.dtype) -> Checkpoint:
    """The averaged weights as a checkpoint."""
    weights = _stored(training.average, dtype)
    return Checkpoint("Precond", training.init_kwargs, weights, source_sha256="", note=note)


def _stored(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: value.to("cpu", dtype) for name, value in weights.items()}


def _curve(training: DenoiserTraining) -> list[dict[str, Any]]:
    """The mean loss of each twentieth of the iterations."""
    every = max(training.recipe.iterations // 20, 1)
    losses = training.losses
    return [
        {"iteration": end, "loss": round(sum(losses[end - every : end]) / every, 4)}
        for end in range(every, len(losses) + 1, every)
    ]


def _write_sheet(path: Path, training: DenoiserTraining, pictures: Pictures) -> None:
    """Samples of the averaged network, seeds 0 on, Heun with 12 steps; the training's numbers stay."""
    with torch.random.fork_rng(devices=[]):
        net = build_denoiser(_checkpoint(training, "", torch.float32))
        noise, labels = draw(range(SHEET), net)
        images = pictures.decode(sample(net, noise, labels, num_steps=12))
    tiles = images.permute(0, 2, 3, 1).numpy()
    write_atomic(path, sheet(list(tiles), f"{path.stem}, iteration {training.iteration}"))


def train_all(recipes: Mapping[str, Recipe], plan: TrainingPlan, out: Path, workers: int) -> list[str]:
    """Train the named networks, `workers` at a time, each in its own single-threaded process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool:
        jobs = [pool.submit(train_one, name, recipe, plan, out) for name, recipe in recipes.items()]
        return [job.result() for job in as_completed(jobs)]


def _check_device(name: str) -> None:
    """Raises UserError where networks cannot be trained on it here."""
    if name not in ("cpu", "cuda"):
        raise unknown_name("device", name, ("cpu", "cuda"))
    set_up_device(name, 0)


def train(content: Mapping[str, Any]) -> int:
    """Train the named networks of a recipe and write them with their training records."""
    own = (*NETWORKS, "out", "networks", "workers", *TrainingPlan.__dataclass_fields__)
    shared = {key: value for key, value in content.items() if key not in own}
    plan = build(TrainingPlan, {key: content[key] for key in TrainingPlan.__dataclass_fields__}, "recipe")
    recipes: dict[str, Recipe] = {}
    if not isinstance(content["networks"], list):
        raise UserError(f"networks is {content['networks']!r}; write networks=[denoiser,weaker]")
    for name in content["networks"]:
        if name not in NETWORKS:
            raise unknown_name("network", name, NETWORKS)
        if not isinstance(content[name], Mapping):
            raise UserError(f"{name} is {content[name]!r}; set its fields, such as {name}.seed=5")
        if name == "features":
            recipes[name] = build(FeaturesRecipe, {"device": content["device"], **content[name]}, name)
        else:
            recipes[name] = build(DenoiserRecipe, {**shared, **content[name]}, name)
    if not recipes:
        raise UserError(f"networks is empty; name some of: {', '.join(NETWORKS)}")
    workers = content["workers"] or os.cpu_count() or 1
    if not isinstance(workers, int) or workers < 1:
        raise UserError(f"workers is {workers!r}; it must be 1 or more, or null for one per CPU core")
    out = Path(content["out"])
    check_path("out", out)
    _check_device(str(content["device"]))
    for line in train_all(recipes, plan, out, min(workers, len(recipes))):
        print(line)
    print(f"networks and training records: {out}")
    return 0
