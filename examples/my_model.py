"""A network that needs no training: the exact denoiser of the 1,797 digits themselves, and its decoder.

erk-bench run model=my_model.py:load model.decoder=my_model.py:decode
erk-bench run model=my_model.py:load model.decoder=digits model.spread=0.02
"""

import torch

from erk_bench.digits.data import decode as digits_decode
from erk_bench.digits.data import encode, load_digits


class Exact:
    img_channels, img_resolution, num_classes = 1, 8, 10  # of x; num_classes is 0 without classes

    def __init__(self, spread):
        digits = load_digits()
        self.data, self.classes, self.spread = encode(digits.images).flatten(1), digits.labels, spread

    def __call__(self, x, sigma, condition):
        """The mean of the data, given x = data + sigma * noise. condition: class numbers, 10 is any class."""
        data, variance = self.data.to(x.device), sigma.reshape(-1, 1) ** 2 + self.spread**2
        logits = -torch.cdist(x.flatten(1), data).square() / (2 * variance)
        if condition is not None:
            other = (self.classes.to(x.device) != condition[:, None]) & (condition[:, None] < 10)
            logits = logits.masked_fill(other, -torch.inf)
        nearest = (logits.softmax(dim=1) @ data).reshape(x.shape)
        return torch.lerp(x, nearest, sigma**2 / (sigma**2 + self.spread**2))


def load(*, spread=0.0):
    """The network. spread: standard deviation of a normal blur around each digit."""
    return Exact(spread)


def decode(x):
    """States NCHW to uint8 images [B, C, H, W]."""
    return digits_decode(x)
