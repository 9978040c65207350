"""The numbers of torch's CUDA generator, computed without a GPU.

The generator is Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): a keyed
function of a counter. torch's layout: the key is the seed, the counter's low half the generator's offset, its
high half the number of the thread. A kernel has blocks of 256 threads, as many as it has numbers to draw or
as the card holds at once. Each thread turns one call into four numbers (two of float64), which lie a grid's
width apart, and repeats until all are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Words = NDArray[np.uint64]

BLOCK = 256  # threads of a block
# An H100 holds 132 x 2,048 threads. The number matters only for a draw larger than the card: all cards of 108
# processors or more give the same up to 221,184 numbers, and an EDM2 latent has 16,384.
H100_BLOCKS = 132 * 2048 // BLOCK

_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_FACTORS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
# float32 products of CUDA's constants: 2 pi / 2^32, and 1 / (2 pi) of its fast sine.
_RADIANS = float(np.float32(2**-32) * np.float32(2 * math.pi))
_TURNS = float(np.float32(1 / (2 * math.pi)))
_FLOAT32_BITS = np.uint64(~((1 << 29) - 1) & (2**64 - 1))  # of a float64's fraction


def philox4x32(counter: Sequence[Words], key: tuple[int, int]) -> list[Words]:
    """Ten rounds. counter: four arrays of 32-bit words, held in uint64, of shapes that fit together."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        left, right = c0 * _FACTORS[0], c2 * _FACTORS[1]
        c0, c1 = (right >> _HALF) ^ c1 ^ np.uint64(k0), right & _LOW
        c2, c3 = (left >> _HALF) ^ c3 ^ np.uint64(k1), left & _LOW
        k0, k1 = (k0 + _KEY_STEPS[0]) % 2**32, (k1 + _KEY_STEPS[1]) % 2**32
    return [c0, c1, c2, c3]


class EmulatedGenerator:
    """What `torch.Generator("cuda").manual_seed(seed)` draws on an NVIDIA card, call after call.

    seed: 0 to 2^64 - 1. blocks: of 256 threads that the card holds at once. Words and class numbers are
    exact. Normals come within about 1e-6 in float32: the card's fast sine is a table in its hardware.
    """

    def __init__(self, seed: int, blocks: int = H100_BLOCKS) -> None:
        self._key = (seed % 2**32, seed >> 32)
        self._calls = 0  # of each thread so far
        self._blocks = blocks

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal of this shape, on the CPU."""
        size = math.prod(shape)
        if size == 0:  # nothing is drawn, and the generator stays where it is
            return torch.empty(tuple(shape), dtype=dtype)
        if dtype == torch.float64:
            return torch.from_numpy(self._drawn(size, 2, _normals64, np.float64).reshape(shape))
        drawn = torch.from_numpy(self._drawn(size, 4, _normals32, np.float32).reshape(shape))
        return drawn.to(dtype)

    def integers(self, high: int, count: int = 1) -> Tensor:
        """Uniform integers of 0..high-1, int64 [count], on the CPU; high is below 2^28."""

        def remainders(words: Sequence[Words], position: int) -> Words:
            return words[position] % np.uint64(high)

        return torch.from_numpy(self._drawn(count, 4, remainders, np.int64))

    def _drawn(self, size: int, unroll: int, number: Any, dtype: Any) -> NDArray[Any]:
        """`size` numbers: number(words, position) makes the one at this position of a call's `unroll`."""
        out = np.empty(size, dtype)
        width = BLOCK * min(-(-size // BLOCK), self._blocks)
        for start in range(0, size, width * unroll):
            words = self._words(min(width, size - start))
            for position in range(unroll):
                part = out[start + position * width : start + (position + 1) * width]
                if len(part) == 0:
                    break
                part[:] = number([word[: len(part)] for word in words], position)
        return out

    def _words(self, threads: int) -> list[Words]:
        offset = [np.array([part], np.uint64) for part in (self._calls % 2**32, self._calls >> 32)]
        thread = np.arange(threads, dtype=np.uint64)
        self._calls += 1
        return philox4x32([*offset, thread, np.zeros(1, np.uint64)], self._key)


def _normals32(words: Sequence[Words], position: int) -> NDArray[np.float32]:
    """Box-Muller in float32, the sine of a pair of words first."""
    radius_word, angle_word = words[position // 2 * 2 : position // 2 * 2 + 2]
    # A float64 holds a product of float32 numbers exactly, so that each line rounds once, as the card does.
    uniform = (radius_word.astype(np.float32).astype(np.float64) * 2**-32 + 2**-33).astype(np.float32)
    logarithm = np.log(uniform.astype(np.float64)).astype(np.float32)
    radius = np.sqrt(logarithm * np.float32(-2))
    angle = angle_word.astype(np.float32) * np.float64(_RADIANS) + _RADIANS / 2
    # The fast sine takes turns, and the card rounds its product towards zero.
    turns = angle.astype(np.float32).astype(np.float64) * _TURNS
    turns = (turns.view(np.uint64) & _FLOAT32_BITS).view(np.float64)
    wave = (np.cos if position % 2 else np.sin)(turns * (2 * math.pi))
    normals: NDArray[np.float32] = radius * wave.astype(np.float32)
    return normals


def _normals64(words: Sequence[Words], position: int) -> NDArray[np.float64]:
    """Box-Muller in float64: 53 bits from each pair of words."""
    radius_bits, half_turns = (low ^ (high << np.uint64(21)) for low, high in (words[:2], words[2:]))
    uniform = radius_bits * 2.0**-53 + 2.0**-54
    angle = (half_turns * 2.0**-52 + 2.0**-53) * math.pi
    normals: NDArray[np.float64] = np.sqrt(np.log(uniform) * -2) * (np.cos if position else np.sin)(angle)
    return normals
