"""A small classifier whose 64-d penultimate layer measures FD-digits, and FD-cifar16 and FD-cifar32
of photographs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from erk_bench.digits.data import NUM_CLASSES, RESOLUTION

FEATURE_DIM = 64


class SmallClassifier(nn.Module):
    """uint8 or float images [B, C, R, R] in 0..255 -> (features [B, 64], logits [B, classes]), float32.

    Features are bounded: with unbounded ones the spread between classes swamps the distance, and few
    images tell less about the solver.
    """

    def __init__(
        self, channels: int = 1, resolution: int = RESOLUTION, num_classes: int = NUM_CLASSES
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.hidden = nn.Linear(64 * (resolution // 4) ** 2, FEATURE_DIM)
        self.head = nn.Linear(FEATURE_DIM, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = images.float() / 127.5 - 1
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.relu(self.conv2(x))
        x = F.max_pool2d(F.relu(self.conv3(x)), 2)
        features = torch.tanh(self.hidden(x.flatten(1)))
        return features, self.head(features)
