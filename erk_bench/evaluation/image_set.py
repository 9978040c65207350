from __future__ import annotations
import hashlib
from dataclasses import dataclass
from pathlib import Path
from torch import Tensor
import numpy as np, torch
from erk_bench.evaluation.real_images import open_images, ImageSource, center_crop


@dataclass(frozen=True)
class Stand:
    src: ImageSource

    @property
    def names(self):
        return self.src.names

    def __len__(self):
        return len(self.src)

    def pixels(self, i, resolution=None):
        im = self.src.read(i)
        if resolution:
            return center_crop(im, resolution)
        return torch.from_numpy(np.array(im)).permute(2, 0, 1).contiguous()


def open_set(place):
    return Stand(open_images(place))
