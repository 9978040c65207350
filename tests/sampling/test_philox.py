"""An NVIDIA GPU's random numbers without one, beside published known answers and values that GPUs printed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import erk_bench
from erk_bench.sampling.philox import EmulatedGenerator, philox4x32
from erk_bench.sampling.seeds import SeededDraws
from tests.conftest import golden_net

FULL = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((FULL, FULL, FULL, FULL), (FULL, FULL), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)  # fmt: skip
def test_known_answers_of_random123(counter: tuple[int, ...], key: tuple[int, int], words: str) -> None:
    found = philox4x32([np.array([word], np.uint64) for word in counter], key)
    assert " ".join(f"{int(word[0]):08x}" for word in found) == words


# Seed 0 as a program prints it that emulates GPUs, too (stable-diffusion-webui, modules/rng_philox.py).
SEED_0 = (
    -0.92466259, -0.42534415, -2.6438457, 0.14518388, -0.12086647, -0.57972564, -0.62285122, -0.32838709,
    -1.07454231, -0.36314407, -1.67105067, 2.26550497,
)  # fmt: skip
# Seed 0 with all digits of float32, as gradients in tests of a library for GPUs have it.
SEED_0_OF_A_GPU = (
    -0.9246624, -0.42534423, -2.6438458, 0.14518386, -0.1208664, -0.57972574, -0.622851, -0.3283869,
    -1.0745419, -0.36314395, -1.6710504, 2.2655048, 0.3116848, -0.1841891, 1.2866427, 1.1819527,
)  # fmt: skip
SEED_10 = (-0.1029, 1.6810, -0.2708)  # pytorch/pytorch#79496
SEED_42 = (
    0.1940,
    2.1614,
    -0.1721,
    0.8491,
    -1.9244,
    0.6530,
    -0.6494,
    -0.8175,
    0.5280,
    -1.2753,
)  # FlashInfer's docs


@pytest.mark.parametrize(
    ("seed", "printed", "tolerance"),
    [(0, SEED_0, 1e-6), (0, SEED_0_OF_A_GPU, 5e-7), (10, SEED_10, 5.1e-5), (42, SEED_42, 5.1e-5)],
)
def test_published_normals(seed: int, printed: tuple[float, ...], tolerance: float) -> None:
    found = EmulatedGenerator(seed).normal((len(printed),)).double()
    assert (found - torch.tensor(printed, dtype=torch.float64)).abs().max() <= tolerance


def test_published_normals_of_a_draw_larger_than_the_card() -> None:
    """pytorch/pytorch#158398: 1 x 64 x 2048 of seed 42, on a card of 28 processors of 1,536 threads.

    The last rows are fourth numbers of their calls.
    """
    found = EmulatedGenerator(42, blocks=28 * 6).normal((1, 64, 2048))[0]
    printed = {
        0: ((0.1940, 2.1614, -0.1721), (1.4540, -2.7733, -0.8932)),
        1: ((-0.4574, 0.8063, 0.1580), (0.1124, 0.2769, -1.2535)),
        2: ((1.1346, -0.6329, -0.9147), (-1.0001, -1.1552, -0.6955)),
        -3: ((-0.4861, 0.3358, 1.0578), (-0.7282, 0.5087, 0.1318)),
        -2: ((0.7881, 0.8339, -1.1424), (-0.6297, -1.1112, -0.4091)),
        -1: ((-1.2356, -0.4083, -0.4695), (-0.4841, 1.2850, -0.0282)),
    }
    for row, (first, last) in printed.items():
        assert (found[row, :3] - torch.tensor(first)).abs().max() <= 5.1e-5
        assert (found[row, -3:] - torch.tensor(last)).abs().max() <= 5.1e-5


def test_published_uniform_numbers_are_the_words() -> None:
    """pytorch/pytorch#47347: five numbers of [0, 1) by seed 0, which are words over 2^32."""
    found = EmulatedGenerator(0).integers(2**27, 5).double() / 2**27  # the low 27 bits of each word
    threads = np.arange(5, dtype=np.uint64)
    zero = np.zeros(1, np.uint64)
    words = philox4x32([zero, zero, threads, zero], (0, 0))[0]
    printed = np.array([0.3990, 0.5167, 0.0249, 0.9401, 0.9459])
    assert np.abs(words / 2**32 - printed).max() <= 5.1e-5
    assert torch.equal(found, torch.from_numpy(words % 2**27 / 2**27))


def one_thread_at_a_time(seed: int, call: int, size: int, blocks: int) -> torch.Tensor:
    """float32 normals in float64, element by element by the definition, of the generator's call `call`."""
    width = 256 * min(math.ceil(size / 256), blocks)
    found = []
    for index in range(size):
        rounds, rest = divmod(index, 4 * width)
        position, thread = divmod(rest, width)
        counter = [np.array([word], np.uint64) for word in (call + rounds, 0, thread, 0)]
        words = [int(word[0]) for word in philox4x32(counter, (seed, 0))]
        first, second = words[position // 2 * 2 : position // 2 * 2 + 2]
        radius = math.sqrt(-2 * math.log((first + 0.5) / 2**32))
        wave = math.cos if position % 2 else math.sin
        found.append(radius * wave(2 * math.pi * (second + 0.5) / 2**32))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize(
    ("size", "blocks", "rounds"), [(1, 9, 1), (300, 2, 1), (700, 1, 1), (1500, 1, 2), (1024, 1, 1)]
)
def test_calls_follow_each_other_in_any_size(size: int, blocks: int, rounds: int) -> None:
    """A draw that needs more rounds moves the next draw by as many calls."""
    generator = EmulatedGenerator(7, blocks)
    for call in (0, rounds):
        expected = one_thread_at_a_time(7, call, size, blocks)
        assert (generator.normal((size,)).double() - expected).abs().max() <= 3e-6
    counter = [np.array([word], np.uint64) for word in (2 * rounds, 0, 0, 0)]
    assert int(generator.integers(1000)) == int(philox4x32(counter, (7, 0))[0][0]) % 1000


def test_the_offset_passes_32_bits() -> None:
    """The counter's second word takes over."""
    generator = EmulatedGenerator(7)
    generator._calls = 2**32
    words = philox4x32([np.array([word], np.uint64) for word in (0, 1, 0, 0)], (7, 0))
    assert int(generator.integers(2**27)) == int(words[0][0]) % 2**27


def test_float64_takes_53_bits_and_two_a_call() -> None:
    """Moments of a large draw; and the layout: the second half is the cosine of the same words."""
    drawn = EmulatedGenerator(5, blocks=1).normal((512,), torch.float64)
    words = philox4x32(
        [
            *(np.zeros(1, np.uint64) for _ in range(2)),
            np.arange(256, dtype=np.uint64),
            np.zeros(1, np.uint64),
        ],
        (5, 0),
    )
    u, v = ((low.astype(object) ^ (high.astype(object) << 21)) for low, high in (words[:2], words[2:]))
    for thread in (0, 1, 255):
        radius = math.sqrt(-2 * math.log((u[thread] + 0.5) / 2**53))
        angle = 2 * math.pi * (v[thread] + 0.5) / 2**53
        assert drawn[thread].item() == pytest.approx(radius * math.sin(angle), abs=1e-12)
        assert drawn[256 + thread].item() == pytest.approx(radius * math.cos(angle), abs=1e-12)
    many = EmulatedGenerator(5).normal((200_000,), torch.float64)
    assert abs(many.mean()) <= 0.01 and abs(many.std() - 1) <= 0.01


def test_a_draw_of_nothing_and_other_number_types() -> None:
    assert EmulatedGenerator(0).normal((0, 4)).shape == (0, 4)
    half = EmulatedGenerator(0).normal((2, 8), torch.float16)
    assert torch.equal(half, EmulatedGenerator(0).normal((2, 8)).half())


def test_classes_of_published_seeds() -> None:
    """What seeds 100000 to 100007 are expected to draw on a GPU after a latent's noise, of 1,000 classes."""
    draws = SeededDraws(range(100_000, 100_008), "cuda_emulated")
    draws.normal((4, 64, 64))
    assert draws.integers(1000).tolist() == [516, 637, 489, 930, 689, 661, 100, 927]


def test_draws_of_a_seed_do_not_depend_on_its_batch() -> None:
    together, alone = (SeededDraws(seeds, "cuda_emulated") for seeds in ([3, 2**32 + 4], [4]))
    x = torch.zeros(2, 3, 5, dtype=torch.float64)
    for one, other in (
        (together.normal((4, 8, 8)), alone.normal((4, 8, 8))),
        (together.integers(10), alone.integers(10)),
        (together.normal_like(x), alone.normal_like(x[:1])),
    ):
        assert torch.equal(one[1:], other)
    assert together.normal_like(x).dtype == torch.float64


def test_draw_offers_it() -> None:
    net = golden_net("a")
    noise, labels = erk_bench.draw([42, 10], net, device="cuda_emulated")
    assert labels is not None and noise.device.type == "cpu" and noise.dtype == torch.float32
    assert noise[0, 0, 0, :3].tolist() == pytest.approx(SEED_42[:3], abs=5.1e-5)
    assert noise[1, 0, 0, :3].tolist() == pytest.approx(SEED_10, abs=5.1e-5)
    assert not torch.equal(noise, erk_bench.draw([42, 10], net)[0])
