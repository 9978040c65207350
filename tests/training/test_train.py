"""Training: deterministic, gone on with, recorded, and the networks that ship."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import erk_bench
from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.base.fields import build
from erk_bench.commands.actions import train as train_action
from erk_bench.commands.actions.train import NETWORKS, Recipe, TrainingPlan, _curve, train_one
from erk_bench.commands.compose import compose_config
from erk_bench.digits.data import encode, load_digits
from erk_bench.evaluation.detectors import DIGITS_WEIGHTS, digits_network
from erk_bench.networks.checkpoint import read_checkpoint
from erk_bench.networks.edm2 import EDM2Network, MPConv
from erk_bench.training.classifiers import FeaturesRecipe
from erk_bench.training.denoisers import DenoiserRecipe, DenoiserTraining, ema_exponent
from erk_bench.training.pictures import load_pictures

WEIGHTS = Path(erk_bench.__file__).parent / "digits" / "weights"
PHOTOGRAPHS = {track: WEIGHTS.parents[1] / track / "weights" for track in ("cifar16", "cifar32")}
NAMES = sorted(NETWORKS)
PLAN = TrainingPlan(images="digits", resolution=8, stored="float32", checkpoint_minutes=3)
OTHER_SEEDS = {f"denoiser-seed{seed}": seed for seed in (11, 12, 13)}  # in float16
TINY = DenoiserRecipe(
    seed=11,
    conditional=True,
    model_channels=8,
    iterations=12,
    channel_mult=(1, 2),
    num_blocks=1,
    attn_resolutions=(4,),
    channels_per_head=8,
    batch_size=8,
    learning_rate=0.01,
    decay_after=8,
    warm_up=3,
    p_mean=-0.4,
    p_std=1.0,
    ema_std=0.1,
)
TINY_FEATURES = FeaturesRecipe(
    seed=12,
    epochs=1,
    batch_size=64,
    learning_rate=0.002,
    label_smoothing=0.1,
    rotation=10.0,
    translation=0.06,
    scale=0.1,
    num_test=300,
)


def as_json(value: Any) -> Any:
    """What `value` is after a trip through JSON (tuples become lists)."""
    return json.loads(json.dumps(value))


def configured_recipe(name: str, recipe: str = "digits") -> Recipe:
    """The recipe of one network in configs/train, the shared settings merged in."""
    content = compose_config(f"train/{recipe}", [])
    if name == "features":
        return build(FeaturesRecipe, {"device": content["device"], **content[name]})
    known = {field.name for field in dataclasses.fields(DenoiserRecipe)}
    shared = {key: value for key, value in content.items() if key in known}
    return build(DenoiserRecipe, {**shared, **content[name]})


def trained(recipe: DenoiserRecipe) -> DenoiserTraining:
    """A training on the digits, carried out."""
    pictures = load_pictures("digits", 8)
    training = DenoiserTraining(recipe, pictures.clean, pictures.classes, pictures.num_classes)
    while training.iteration < recipe.iterations:
        training.step()
    return training


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.15, 0.2])
def test_ema_exponent_inverts_the_relative_width(width: float) -> None:
    gamma = ema_exponent(width)
    assert gamma > 0
    assert math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) == pytest.approx(width, rel=1e-9)


def test_ema_exponent_of_the_paper() -> None:
    """arXiv 2312.02696, section 3.1: widths 0.05 and 0.10 belong to 16.97 and 6.94."""
    assert ema_exponent(0.05) == pytest.approx(16.97, abs=0.005)
    assert ema_exponent(0.10) == pytest.approx(6.94, abs=0.005)


@pytest.mark.parametrize(
    ("name", "recipe"), [("denoiser", TINY), ("features", TINY_FEATURES)], ids=["denoiser", "features"]
)
def test_training_repeats_bit_by_bit(name: str, recipe: Recipe, tmp_path: Path) -> None:
    records = []
    for folder in ("first", "second"):
        torch.manual_seed(999)  # the recipe's seed counts, not the state left by others
        torch.rand(len(folder))
        train_one(name, recipe, PLAN, tmp_path / folder)
        record = json.loads((tmp_path / folder / f"{name}.json").read_text())
        records.append({key: value for key, value in record.items() if not key.endswith("_seconds")})
    first, second = (tmp_path / folder / f"{name}.safetensors" for folder in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    assert records[0] == records[1]
    written = {file.name for file in (tmp_path / "first").iterdir()}
    assert written - {f"{name}.png"} == {f"{name}.json", f"{name}.safetensors"}  # and a denoiser's sheet

    other = dataclasses.replace(recipe, seed=recipe.seed + 1)
    train_one(name, other, PLAN, tmp_path / "other")
    assert (tmp_path / "other" / f"{name}.safetensors").read_bytes() != first.read_bytes()


def test_denoiser_record_and_checkpoint(tmp_path: Path) -> None:
    summary = train_one("tiny", TINY, PLAN, tmp_path)
    record = json.loads((tmp_path / "tiny.json").read_text())
    assert record["network"] == "tiny"
    assert record["recipe"] == as_json(TINY.written())
    assert record["torch"] == torch.__version__
    assert [entry["iteration"] for entry in record["loss"]] == list(range(1, 13))
    assert all(math.isfinite(entry["loss"]) for entry in record["loss"])
    assert f"{record['loss'][-1]['loss']:.4f}" in summary

    checkpoint = read_checkpoint(tmp_path / "tiny.safetensors")
    assert json.loads(checkpoint.note) == {"recipe": record["recipe"]}
    assert checkpoint.init == as_json(TINY.init_kwargs(8, 1, 10))
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint.weights.values())
    net = erk_bench.load_denoiser(tmp_path / "tiny.safetensors")
    assert record["parameters"] == sum(p.numel() for p in net.parameters())
    assert net(torch.zeros(2, 1, 8, 8), 1.0).shape == (2, 1, 8, 8)


def test_training_lowers_the_loss() -> None:
    recipe = dataclasses.replace(TINY, iterations=40, batch_size=16, decay_after=1000)
    losses = [entry["loss"] for entry in _curve(trained(recipe))]
    assert sum(losses[-3:]) / 3 < sum(losses[:3]) / 3 - 0.2


def test_average_is_the_power_function_one() -> None:
    """arXiv 2312.02696, eq. 127: beta = (1 - 1/t)^(gamma + 1), so nothing of the random start remains."""

    def output_gain(**changes: Any) -> float:
        return trained(dataclasses.replace(TINY, **changes)).average["unet.out_gain"].item()

    expected = 0.0
    for step in range(1, 6):
        beta = (1 - 1 / step) ** (ema_exponent(0.1) + 1)
        raw = output_gain(iterations=step, ema_std=0.001)  # so narrow that it is the last step's value
        expected = beta * expected + (1 - beta) * raw
    assert expected != 0  # as it is at the start
    assert output_gain(iterations=5, ema_std=0.1) == pytest.approx(expected, rel=1e-4)


def test_diverging_training_is_an_error() -> None:
    with pytest.raises(UserError, match="diverged at iteration"):
        trained(dataclasses.replace(TINY, p_mean=200.0))


def test_a_network_that_diverged_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is its sheet, though losses are read late, as they are from a GPU."""

    class LateReader(DenoiserTraining):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.read_every = 100

    monkeypatch.setattr(train_action, "DenoiserTraining", LateReader)
    with pytest.raises(UserError, match="diverged at iteration"):
        train_one("denoiser", dataclasses.replace(TINY, p_mean=200.0), PLAN, tmp_path)
    assert not list(tmp_path.iterdir())


def test_losses_that_are_read_late_are_the_same() -> None:
    pictures = load_pictures("digits", 8)
    at_once, late = (DenoiserTraining(TINY, pictures.clean, pictures.classes, 10) for _ in range(2))
    late.read_every = 5
    for each in (at_once, late):
        torch.manual_seed(TINY.seed)
        for count in range(1, 13):
            each.step()
            assert each.iteration == count
    assert late.losses == at_once.losses and len(late.losses) == 12


def test_a_state_without_the_settings_of_devices_is_taken_up() -> None:
    """As earlier versions wrote it."""
    pictures = load_pictures("digits", 8)
    first, second = (DenoiserTraining(TINY, pictures.clean, pictures.classes, 10) for _ in range(2))
    first.step()
    state = torch.load(io.BytesIO(first.state_bytes()), weights_only=True)
    for name in ("device", "dtype", "compiled"):
        del state["recipe"][name]
    buffer = io.BytesIO()
    torch.save(state, buffer)
    second.load_state(buffer.getvalue(), "here")
    assert second.losses == first.losses


def test_kept_filters_change_nothing() -> None:
    recipe = dataclasses.replace(TINY, channel_mult=(1, 2, 2))
    torch.manual_seed(1)
    net = EDM2Network(**recipe.init_kwargs(16, 3, 10))
    x, labels = torch.randn(2, 3, 16, 16), torch.eye(10)[:2]
    before = net(x, torch.zeros(2), labels)
    net.keep_filters()
    assert torch.equal(net(x, torch.zeros(2), labels), before)


class StoppedError(Exception):
    """What ends a training here, as a kill would."""


@pytest.mark.slow
def test_a_stopped_training_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """Stopped twice, after states at other iterations than those of the stops."""
    plan = dataclasses.replace(PLAN, checkpoint_minutes=0)
    train_one("tiny", TINY, PLAN, tmp_path / "whole")
    for last in (5, 9):

        def stopping(iteration: int, last: int = last) -> None:
            if iteration == last:
                raise StoppedError

        with pytest.raises(StoppedError):
            train_one("tiny", TINY, plan, tmp_path / "parts", stopping)
        assert (tmp_path / "parts" / "tiny.png").read_bytes().startswith(b"\x89PNG")
    train_one("tiny", TINY, plan, tmp_path / "parts")
    whole, parts = (tmp_path / folder / "tiny.safetensors" for folder in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()
    assert not (tmp_path / "parts" / "tiny.training").exists()
    records = [json.loads(file.with_suffix(".json").read_text()) for file in (whole, parts)]
    assert records[0]["loss"] == records[1]["loss"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"learning_rate": 0.5}, "another learning_rate (0.01, not 0.5)"),
        ({"iterations": 3}, "is after iteration 6, and iterations is 3"),
    ],
)
def test_a_state_of_another_training_is_refused(changes: dict[str, Any], told: str) -> None:
    training = trained(dataclasses.replace(TINY, iterations=6))
    pictures = load_pictures("digits", 8)
    other = DenoiserTraining(
        dataclasses.replace(TINY, **changes), pictures.clean, pictures.classes, pictures.num_classes
    )
    with pytest.raises(UserError) as error:
        other.load_state(training.state_bytes(), "tiny.training")
    assert told in str(error.value)


def test_a_damaged_state_and_one_of_other_pictures_are_refused() -> None:
    training = trained(dataclasses.replace(TINY, iterations=2))
    content = training.state_bytes()
    for damaged in (b"", content[:1000], b"no state"):
        with pytest.raises(UserError, match="is no training to go on with"):
            training.load_state(damaged, "tiny.training")
    classes = load_pictures("digits", 8).classes
    DenoiserTraining(TINY, training.clean, classes, 10).load_state(content, "tiny.training")
    for clean, others in (
        (training.clean[:100], classes[:100]),
        (training.clean.flip(0), classes),
        (training.clean, classes.flip(0)),
    ):
        with pytest.raises(UserError, match="another pictures"):
            DenoiserTraining(TINY, clean, others, 10).load_state(content, "tiny.training")


def photographs(folder: Path, classes: int = 2) -> Path:
    """Colour pictures of 20x24, six in each of some class folders."""
    for number in range(6 * max(classes, 1)):
        file = folder / f"class{number % classes}" / f"{number}.png" if classes else folder / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (24, 20, 3), np.uint8)
        Image.fromarray(pixels).save(file)
    return folder


def test_a_folder_of_pictures_trains_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Classes are its folders; the pictures are cropped to the resolution, the weights stored as asked."""
    plan = TrainingPlan(str(photographs(tmp_path / "pictures")), 8, "float16", 3)
    train_one("mine", TINY, plan, tmp_path / "out")
    checkpoint = read_checkpoint(tmp_path / "out" / "mine.safetensors")
    assert checkpoint.init["img_channels"] == 3 and checkpoint.init["label_dim"] == 2
    assert {value.dtype for value in checkpoint.weights.values()} == {torch.float16}
    net = erk_bench.load_denoiser(tmp_path / "out" / "mine.safetensors")
    assert net(torch.zeros(2, 3, 8, 8), 1.0).shape == (2, 3, 8, 8)
    recipe = dataclasses.replace(TINY_FEATURES, num_test=2, flip=True, batch_size=4)
    train_one("features", recipe, plan, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "features.json").read_text())
    assert record["recipe"]["flip"] is True and record["num_test"] == 2
    with pytest.raises(UserError, match="more than num_test=300"):
        train_one("features", TINY_FEATURES, plan, tmp_path / "out")
    assert "1/1 epochs" in capsys.readouterr().out


def test_pictures_without_classes(tmp_path: Path) -> None:
    plan = TrainingPlan(str(photographs(tmp_path / "pictures", 0)), 8, "float32", 3)
    with pytest.raises(UserError, match=r"no classes; .* denoiser\.conditional=false"):
        train_one("mine", TINY, plan, tmp_path)
    train_one("mine", dataclasses.replace(TINY, conditional=False, iterations=2), plan, tmp_path)
    assert read_checkpoint(tmp_path / "mine.safetensors").init["label_dim"] == 0


def test_pictures_that_are_not_there(tmp_path: Path) -> None:
    for images, resolution, told in (
        (None, 8, "images is null; give the pictures"),
        (str(tmp_path / "none"), 8, "does not exist"),
        (str(tmp_path), 2, "resolution is 2"),
    ):
        with pytest.raises(UserError, match=told):
            load_pictures(images, resolution)


def test_features_record(tmp_path: Path) -> None:
    train_one("features", TINY_FEATURES, PLAN, tmp_path)
    record = json.loads((tmp_path / "features.json").read_text())
    assert record["recipe"] == as_json(TINY_FEATURES.written())
    assert record["num_test"] == 300
    assert 0.3 < record["test_accuracy"] <= 1  # one epoch already beats chance, 0.1
    with safe_open(tmp_path / "features.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["erk_bench"]) == {"recipe": record["recipe"]}
        assert all(torch.isfinite(file.get_tensor(name)).all() for name in file.keys())  # noqa: SIM118


def test_shipped_weights_are_small_and_recorded() -> None:
    """Each network beside the record of its training; the statistics of a solver are no network."""
    names = sorted([*NAMES, *OTHER_SEEDS])
    files = [file for file in WEIGHTS.glob("*.safetensors") if file.stem != "statistics"]
    assert sorted(file.stem for file in files) == names
    assert sorted(file.stem for file in WEIGHTS.glob("*.json")) == names
    assert sum(file.stat().st_size for file in files) < 3 * 2**20


@pytest.mark.parametrize("name", [*NAMES, *OTHER_SEEDS])
def test_shipped_recipe_is_the_configured_one(name: str) -> None:
    record = json.loads((WEIGHTS / f"{name}.json").read_text())
    recipe = as_json(configured_recipe(name.partition("-")[0]).written())
    if name in OTHER_SEEDS:
        recipe["seed"] = OTHER_SEEDS[name]
    assert record["network"] == name.partition("-")[0]
    assert record["recipe"] == recipe
    with safe_open(WEIGHTS / f"{name}.safetensors", framework="pt") as file:
        metadata = json.loads(file.metadata()["erk_bench"])
    note = metadata if name == "features" else json.loads(metadata["note"])
    assert note == {"recipe": recipe}


@pytest.mark.parametrize("name", ["denoiser", "unconditional", "weaker", *OTHER_SEEDS])
def test_shipped_denoisers_denoise(name: str) -> None:
    """At sigma 0.5 they beat the best linear guess (half the noisy image, error 0.125) by far."""
    record = json.loads((WEIGHTS / f"{name}.json").read_text())
    net = erk_bench.load_denoiser(WEIGHTS / f"{name}.safetensors")
    assert record["parameters"] == sum(p.numel() for p in net.parameters())
    folded = [module for module in net.modules() if isinstance(module, MPConv)]
    assert folded and all(module.folded for module in folded)
    digits = load_digits()
    clean = encode(digits.images[:200])
    labels = torch.nn.functional.one_hot(digits.labels[:200], 10).float()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    error = (net(clean + 0.5 * noise, 0.5, labels) - clean).square().mean().item()
    assert error < 0.05


def test_shipped_classifier_is_accurate() -> None:
    digits = load_digits()
    with torch.no_grad():
        features, logits = digits_network(Assets.from_environment().locate(DIGITS_WEIGHTS))(digits.images)
    assert features.shape == (1797, 64) and features.dtype == torch.float32
    assert features.abs().max() <= 1
    accuracy = (logits.argmax(1) == digits.labels).double().mean().item()
    assert accuracy > 0.98
    record = json.loads((WEIGHTS / "features.json").read_text())
    assert record["test_accuracy"] > 0.97


@pytest.mark.parametrize("track", PHOTOGRAPHS)
@pytest.mark.parametrize("name", NAMES)
def test_networks_of_photographs_are_those_of_the_recipe(name: str, track: str) -> None:
    folder = PHOTOGRAPHS[track]
    record = json.loads((folder / f"{name}.json").read_text())
    recipe = as_json(configured_recipe(name, track).written())
    assert record["network"] == name and record["recipe"] == recipe
    with safe_open(folder / f"{name}.safetensors", framework="pt") as file:
        metadata = json.loads(file.metadata()["erk_bench"])
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118
    assert (metadata if name == "features" else json.loads(metadata["note"])) == {"recipe": recipe}


def test_networks_of_photographs_are_small() -> None:
    """Those of all tracks go into every wheel."""
    for folder in PHOTOGRAPHS.values():
        assert sum(file.stat().st_size for file in folder.iterdir()) < 8 * 2**20
