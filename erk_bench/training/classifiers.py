"""Training of a small classifier, whose 64-d features measure distances between sets of images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.digits.classifier import SmallClassifier
from erk_bench.training.denoisers import check_least, written
from erk_bench.training.pictures import Pictures


@dataclass(frozen=True)
class FeaturesRecipe:
    """How the feature network is trained; fields as in configs/train/digits.yaml."""

    seed: int
    epochs: int
    batch_size: int
    learning_rate: float
    label_smoothing: float
    rotation: float
    translation: float
    scale: float
    num_test: int
    flip: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_least(self, ("epochs", "batch_size", "num_test"))

    def written(self) -> dict[str, Any]:
        """Its fields as files hold them."""
        return written(self)


def _augment(images: Tensor, recipe: FeaturesRecipe) -> Tensor:
    """A random mild rotation, translation and scaling of each image."""
    count = len(images)
    if recipe.flip:
        mirrored = torch.rand(count, 1, 1, 1, device=images.device) < 0.5
        images = torch.where(mirrored, images.flip(3), images)

    def uniform() -> Tensor:
        return torch.rand(count, device=images.device) * 2 - 1

    angle = uniform() * math.radians(recipe.rotation)
    zoom = 1 + uniform() * recipe.scale
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    shift_x, shift_y = (2 * recipe.translation * uniform() for _ in range(2))
    affine = torch.stack([torch.stack([cos, -sin, shift_x], 1), torch.stack([sin, cos, shift_y], 1)], dim=1)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False, padding_mode="border")


def train_features(
    recipe: FeaturesRecipe, pictures: Pictures, report: Callable[[str], None]
) -> tuple[SmallClassifier, dict[str, Any]]:
    """Train the classifier on all but `num_test` pictures and measure its accuracy on those.

    Raises UserError for pictures without classes, and where none are left to train on.
    """
    if pictures.num_classes < 2 or recipe.num_test >= len(pictures.images):
        raise UserError(
            f"features need pictures of several classes, and more than num_test={recipe.num_test}; got "
            f"{len(pictures.images)} of {pictures.num_classes} classes: put each class in a folder, or leave "
            "features out of networks"
        )
    torch.manual_seed(recipe.seed)
    device = torch.device(recipe.device)
    pixels, classes = pictures.images.float().to(device), pictures.classes.to(device)
    order = torch.randperm(len(pixels), device=device)
    test, train = order[: recipe.num_test], order[recipe.num_test :]
    net = SmallClassifier(pixels.shape[1], pixels.shape[2], pictures.num_classes).to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=recipe.learning_rate)
    steps = recipe.epochs * math.ceil(len(train) / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(1, recipe.epochs + 1):
        for index in train[torch.randperm(len(train), device=device)].split(recipe.batch_size):
            _, logits = net(_augment(pixels[index], recipe))
            loss = F.cross_entropy(logits, classes[index], label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        report(f"{epoch}/{recipe.epochs} epochs")
    with torch.no_grad():
        accuracy = (net(pixels[test])[1].argmax(1) == classes[test]).double().mean().item()
    report(f"{recipe.epochs} epochs, accuracy on {recipe.num_test} held-out pictures {accuracy:.4f}")
    return net, {"test_accuracy": accuracy, "num_test": recipe.num_test}
