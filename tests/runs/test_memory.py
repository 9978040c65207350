"""Memory that a run needs, beside sums by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from erk_bench.commands.compose import run_spec
from erk_bench.runs.cost import parts_of
from erk_bench.runs.memory import GB, IMPORTS, RESERVE, Memory, input_copies, memory_of
from erk_bench.runs.numerics import numerics_of

NEED = Memory(weights=3e9, sampling=1e6, decoding=1e9, features=2e6, decoded_at_once=8, host=0)


def test_stages_follow_each_other() -> None:
    """Decoding takes as many images at once as it does; the others take the whole block."""
    assert NEED.of_gpu(2) == RESERVE + 3e9 + 2e9
    assert NEED.of_gpu(100) == RESERVE + 3e9 + 8e9
    assert NEED.of_gpu(10_000) == RESERVE + 3e9 + 20e9


def test_the_largest_block_that_fits() -> None:
    assert NEED.largest_block(RESERVE + 3e9 + 20e9) == 10_000
    assert NEED.largest_block(RESERVE + 3e9 + 2.5e9) == 2
    assert NEED.largest_block(RESERVE + 3.9e9) == 0


@pytest.mark.slow
def test_memory_of_a_published_model() -> None:
    """Weights of network, VAE, Inception and DINOv2; float16 halves those of the network."""
    half, full = (
        memory_of(run_spec(["track=imagenet512", f"network_dtype={name}"], fetch=False))
        for name in ("float16", "float32")
    )
    assert half is not None and full is not None
    assert full.weights == pytest.approx(4 * (280.2e6 + 83.65e6 + 23.9e6 + 303.3e6), rel=0.005)
    assert full.weights - half.weights == pytest.approx(2 * 280.2e6, rel=0.06)
    # Six times 128 channels of the image, and the copy of an input of 256 in another layout.
    assert half.decoding == pytest.approx((6 + 2) * 128 * 512**2 * 4, rel=0.001)
    assert half.decoded_at_once == 32  # numerics=published of the track
    assert half.host == pytest.approx(
        IMPORTS + 2 * 4 * 303.3e6, rel=0.01
    )  # DINOv2: its file, and its network


@pytest.mark.slow
@pytest.mark.parametrize(("numerics", "peak"), [("strict", 10.62), ("published", 34.79), ("fast", 17.43)])
def test_the_decoder_takes_what_a_card_took(numerics: str, peak: float) -> None:
    """GB of an H100 with the VAE and 32 latents, of `make gpu-check`; the rest is in the reserve."""
    spec = run_spec(["track=imagenet512", f"numerics={numerics}"], fetch=False)
    need, decoder = memory_of(spec), parts_of(spec).decoder
    assert need is not None and decoder is not None
    counted = (decoder.weights + need.stages(32)["decoding"]) / GB
    assert abs(counted - peak) < 1.2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("numerics", "peaks"),
    [
        ("strict", {"inception": 1.20, "vgg16": 3.95, "dinov2_torch": 2.29}),
        ("fast", {"inception": 1.18, "vgg16": 3.39, "dinov2_torch": 2.12}),
    ],
)
def test_detectors_take_what_a_card_took(numerics: str, peaks: dict[str, float]) -> None:
    """GB of an H100 with a detector and 50 images of 512x512, of `make gpu-check`."""
    names = "metrics.names=[fid,fd_dinov2,precision]"
    spec = run_spec(["track=imagenet512", f"numerics={numerics}", names], fetch=False)
    detectors, copies = parts_of(spec).detectors, input_copies(numerics_of(spec))
    for name, peak in peaks.items():
        each = detectors[name]
        assert each is not None
        counted = (each.weights + 50 * (each.activations + copies * each.largest_input)) / GB
        assert abs(counted - peak) < 1.2, name


@pytest.mark.slow
def test_loading_a_large_network_decides_the_host() -> None:
    """As measured for EDM2-XL in float32: 6.6 GB above imports (docs/performance.md)."""
    need = memory_of(
        run_spec(["track=imagenet512", "model=edm2-img512-xl-fid", "network_dtype=float32"], fetch=False)
    )
    assert need is not None and need.host - IMPORTS == pytest.approx(6.608 * GB, rel=0.03)


def test_kept_images_wait_in_the_host() -> None:
    none, kept = (memory_of(run_spec(["block_size=100", f"samples={name}"])) for name in ("none", "png"))
    assert none is not None and kept is not None
    assert kept.host - none.host == 8 * 100 * 8 * 8


def test_the_same_network_as_guide_takes_no_more() -> None:
    same = ["model.unconditional=same", "guidance=cfg", "guidance.weight=2"]
    plain, guided = (memory_of(run_spec(words)) for words in ([], same))
    assert plain is not None and plain == guided
    own = run_spec(["guidance=autoguidance"])
    guide, found = parts_of(own).guide, memory_of(own)
    assert guide is not None and found is not None and found.weights == plain.weights + guide.weights


def test_memory_of_own_code_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def load(device): ...\n")
    assert memory_of(run_spec([f"metrics.names=['fd@{tmp_path}/own.py:load']"])) is None
