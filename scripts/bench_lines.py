"""What the benchmark times: each line a fast way beside a plain one, on the same input."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from bench_plain import plain_attention, plain_erk_guid, scipy_sqrtm, unfolded
from PIL import Image
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from erk_bench import load_denoiser
from erk_bench.base.assets import Assets
from erk_bench.commands.compose import run_spec
from erk_bench.commands.compose_studies import grid_cells, grid_file, table_file, table_runs
from erk_bench.evaluation.frechet import (
    FeatureStats,
    FeatureSums,
    FrechetTarget,
    distances_without_groups,
    frechet_distance,
)
from erk_bench.evaluation.inception import empty_inception
from erk_bench.evaluation.neighbours import precision_recall_without_groups
from erk_bench.networks.checkpoint import make_network, read_checkpoint
from erk_bench.networks.denoiser import EDMPreconditioned
from erk_bench.networks.sizes import architecture
from erk_bench.runs import finish_block, loaded, sample_block
from erk_bench.runs.blocks import Block, Worker, blocks_of
from erk_bench.runs.generate import generate
from erk_bench.runs.png import write_png
from erk_bench.runs.score import score
from erk_bench.runs.store import ImageBlock, RunStore
from erk_bench.sampling import corrections
from erk_bench.sampling.corrections import Correct, erk_guid
from erk_bench.sampling.sample import draw, sample
from erk_bench.sampling.steps import Node, Step
from erk_bench.spec import RunSpec
from erk_bench.studies.grid_file import trees

Run = Callable[[], object]

LAYOUTS = ("channels_last (not used: other last bits)", "default layout")


class Line(NamedTuple):
    """name; what is fast, and what it is compared with; how the results differ, in words."""

    name: str
    ways: tuple[str, str]
    fast: Run
    plain: Run
    difference: Callable[[], str] = lambda: ""


class Scale(NamedTuple):
    """device; small: sizes at which every line ends within seconds and says nothing but that it works."""

    device: torch.device
    small: bool

    def pick(self, normal: int, small: int) -> int:
        return small if self.small else normal


def relative(fast: Tensor, plain: Tensor) -> str:
    """Largest difference over the largest value."""
    error = (fast.double() - plain.double()).abs().max() / plain.double().abs().max()
    return "equal" if error == 0 else f"{error:.0e} of the largest value"


def same(fast: Run, plain: Run) -> Callable[[], str]:
    """For Line.difference, of functions that return tensors."""
    return lambda: relative(fast(), plain())  # type: ignore[arg-type]  # tensors, says the caller


class Nets(NamedTuple):
    """A network ready for inference, and the same one as it was stored."""

    fast: EDMPreconditioned
    plain: EDMPreconditioned


@functools.cache
def digits_nets(device: torch.device) -> Nets:
    path = run_spec(["track=digits"]).model.weights.path
    checkpoint = read_checkpoint(Assets.from_environment().locate(path))
    return Nets(load_denoiser("digits", device), unfolded(checkpoint, device))


@functools.cache
def random_nets(size: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Nets:
    """A published architecture with random weights."""
    torch.manual_seed(0)
    plain = EDMPreconditioned(make_network(architecture(size))).eval().requires_grad_(False)
    for name, parameter in plain.named_parameters():
        if name.endswith("_gain"):  # zero in an untrained network
            parameter.fill_(0.5)
    fast = copy.deepcopy(plain).fold(dtype).to(device).to(memory_format=torch.channels_last)
    plain.network.compute_dtype = dtype
    return Nets(fast, plain.to(device))


def networks(scale: Scale) -> Iterator[Line]:
    """One evaluation: folded weights, fused attention and memory layout, one by one and together."""
    with torch.inference_mode():
        for title, nets, batch in (
            ("digits network, batch 125", digits_nets(scale.device), scale.pick(125, 4)),
            *(
                [("EDM2-XS, batch 2", random_nets("edm2-img512-xs", scale.device), 2)]
                if not scale.small
                else []
            ),
        ):
            yield from _network_lines(title, nets, batch, scale)


def _network_lines(title: str, nets: Nets, batch: int, scale: Scale) -> Iterator[Line]:
    net = nets.fast
    x = torch.randn(batch, net.img_channels, net.img_resolution, net.img_resolution, device=scale.device)
    labels = torch.eye(net.num_classes, device=scale.device)[torch.arange(batch) % net.num_classes]
    folded = copy.deepcopy(nets.plain).fold(torch.float32)  # in the default layout

    def call(network: Callable[..., Tensor]) -> Callable[[], Tensor]:
        return lambda: network(x, 0.7, labels)

    def by_einsum(network: Callable[..., Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with plain_attention():
                return network(x, 0.7, labels)

        return run

    fast = call(net)
    for ways, one, other in (
        (("weights folded once", "normalised at every call"), call(folded), call(nets.plain)),
        (("fused attention", "einsum"), call(folded), by_einsum(folded)),
        (("channels_last", "default layout"), fast, call(folded)),
        (("all three", "none of them"), fast, by_einsum(nets.plain)),
    ):
        yield Line(f"network: {title}", ways, one, other, same(one, other))
    if scale.device.type == "cuda" or shutil.which("g++"):
        compiled = torch.compile(net, dynamic=False)
        yield Line(
            f"network: {title}",
            ("torch.compile", "all three"),
            call(compiled),
            fast,
            same(call(compiled), fast),
        )
    half = torch.bfloat16
    low = copy.deepcopy(nets.plain).fold(half).to(memory_format=torch.channels_last)
    yield Line(f"network: {title}", ("bfloat16", "float32"), call(low), fast, same(call(low), fast))


def _step(shape: tuple[int, ...], device: torch.device) -> Step:
    generator = torch.Generator().manual_seed(0)
    x, slope, other, other_slope, x_next = (
        torch.randn(shape, generator=generator).to(device) for _ in range(5)
    )
    node = Node(x, slope, 1.0)
    return Step(x_next, node, Node(x + 0.01 * other, slope + 0.01 * other_slope, 1.0), 0.3, None)


def _corrected(correct: Correct, step: Step) -> Tensor:
    return correct(step).x_next


def arithmetic(scale: Scale) -> Iterator[Line]:
    """ERK-Guid's correction of one step."""
    for shape in ((125, 1, 8, 8), (scale.pick(32, 2), 4, 64, 64)):
        step = _step(shape, scale.device)
        fast, plain = (
            functools.partial(_corrected, make(0.5, 0.3), step) for make in (erk_guid, plain_erk_guid)
        )
        yield Line(
            f"ERK-Guid's correction of {'x'.join(map(str, shape))}",
            ("few passes", "norms and products apart"), fast, plain, same(fast, plain),
        )  # fmt: skip


def sampling(scale: Scale) -> Iterator[Line]:
    """Noise to images."""
    nets = digits_nets(scale.device)
    noise, labels = draw(range(scale.pick(125, 4)), nets.fast)
    noise, labels = noise.to(scale.device), None if labels is None else labels.to(scale.device)
    options: dict[str, Any] = {"num_steps": 8, "w_stiff": 0.75, "w_con": 0.3}

    def fast() -> Tensor:
        return sample(nets.fast, noise, labels, **options)

    def plain() -> Tensor:
        with plain_attention(), _plain_corrections():
            return sample(nets.plain, noise, labels, **options)

    yield Line(
        "sampling: digits, ERK-Guid, 8 steps", ("all of the above", "none"), fast, plain, same(fast, plain)
    )


@contextmanager
def _plain_corrections() -> Iterator[None]:
    with patch.dict(corrections.CORRECTIONS, erk_guid=corrections.Correction(plain_erk_guid)):
        yield


def decoding(scale: Scale) -> Iterator[Line]:
    """The decoder of sd-vae-ft-mse with random weights."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    widths = (128, 256, 512, 512) if not scale.small else (32, 32, 32, 32)
    vae: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=widths, layers_per_block=2, latent_channels=4,
    ).eval().requires_grad_(False).to(scale.device)  # fmt: skip
    other = copy.deepcopy(vae).to(memory_format=torch.channels_last)
    side = 16 if scale.device.type == "cpu" else 64
    latents = torch.randn(2, 4, side, side, device=scale.device)

    def decode(network: Any) -> Callable[[], Tensor]:
        @torch.inference_mode()
        def run() -> Tensor:
            return network.decode(latents, return_dict=False)[0]

        return run

    def by_einsum() -> Tensor:
        with plain_attention():
            return decode(vae)()

    fast = decode(vae)
    title = f"VAE decoding, {8 * side}x{8 * side}"
    yield Line(title, ("fused attention", "einsum"), fast, by_einsum, same(fast, by_einsum))
    last = decode(other)
    yield Line(title, LAYOUTS, last, fast, same(last, fast))


def detectors(scale: Scale) -> Iterator[Line]:
    """Inception at 299 and DINOv2 ViT-L at 224, random weights."""
    import timm

    torch.manual_seed(0)
    network: Any = empty_inception().to_empty(device=scale.device)
    for name, value in network.state_dict().items():
        if value.ndim > 1:
            torch.nn.init.kaiming_normal_(value)
        elif value.is_floating_point():
            value.fill_(float(name.endswith(("bn.weight", "running_var"))))
    other = copy.deepcopy(network).to(memory_format=torch.channels_last)
    images = torch.randint(0, 256, (scale.pick(8, 1), 3, 64, 64), dtype=torch.uint8).to(scale.device)

    def extract(net: Any) -> Callable[[], Tensor]:
        @torch.inference_mode()
        def run() -> Tensor:
            return net(images)[0]

        return run

    fast, plain = extract(other), extract(network)
    yield Line(
        "Inception",
        LAYOUTS,
        fast,
        plain,
        same(fast, plain),
    )
    name = "vit_large_patch14_dinov2" if not scale.small else "vit_small_patch14_dinov2"
    vit: Any = timm.create_model(name, pretrained=False, num_classes=0, img_size=224).eval().to(scale.device)
    x = torch.randn(scale.pick(2, 1), 3, 224, 224, device=scale.device)

    @torch.inference_mode()
    def fused() -> Tensor:
        return vit(x)

    def by_einsum() -> Tensor:
        with plain_attention():
            return fused()

    yield Line(f"DINOv2 {name[4:9]}", ("fused attention", "einsum"), fused, by_einsum, same(fused, by_einsum))


def files(scale: Scale) -> Iterator[Line]:
    """Images of 512x512, smooth as photographs are: a block file, PNG at two levels, reading."""
    count = scale.pick(16, 2)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 32, 32, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, size=512, mode="bicubic")
    images = (smooth + 4 * torch.randn(smooth.shape, generator=generator)).clamp(0, 255).to(torch.uint8)
    folder = tempfile.TemporaryDirectory()
    store = RunStore(Path(folder.name), {"run_id": "bench"}, "0-15")
    block = Block(0, count)
    content = ImageBlock(images, torch.zeros(count, dtype=torch.int64), 1, 0)

    def blocks() -> None:
        store.write_images(block, content)

    def png(level: int) -> Run:
        def run() -> None:
            for number, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
                write_png(Path(folder.name, f"{level}", f"{number}.png"), image, level)

        return run

    def size(level: int) -> int:
        return sum(path.stat().st_size for path in Path(folder.name, str(level)).iterdir())

    def read_pngs() -> Tensor:
        paths = sorted(Path(folder.name, "1").iterdir(), key=lambda path: int(path.stem))
        pixels = [torch.from_numpy(np.array(Image.open(path))) for path in paths]
        return torch.stack(pixels).permute(0, 3, 1, 2)

    yield Line(f"writing {count} images", ("one block file", "a PNG file each"), blocks, png(1))
    yield Line(
        f"writing {count} images", ("PNG, level 1", "level 6 (PIL's default)"), png(1), png(6),
        lambda: f"same pixels, {size(1) / size(6):.2f} times the bytes",
    )  # fmt: skip
    yield Line(
        f"reading {count} images", ("one block file", "a PNG file each"),
        lambda: store.read_images(block).images, read_pngs,
        same(lambda: store.read_images(block).images, read_pngs),
    )  # fmt: skip
    folder.cleanup()


def random_stats(num_images: int, dimension: int, seed: int) -> FeatureStats:
    """Statistics of features with decaying scales and a few shared directions, as networks' have."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    scales = torch.arange(1, dimension + 1, dtype=torch.float64) ** -0.5
    own = noise(num_images, dimension) * scales
    shared = noise(num_images, 32) @ noise(32, dimension) / 32
    return FeatureSums.of(own + shared + 0.1 * noise(dimension)).stats()


def frechet(scale: Scale) -> Iterator[Line]:
    """One distance of 2048-d statistics, and a jackknife of 50 groups beside single distances."""
    size = scale.pick(2048, 64)
    a, b = (random_stats(max(5000, 2 * size), size, seed) for seed in (1, 2))
    sides = [{"mu": each.mean.numpy(), "sigma": each.covariance.numpy()} for each in (a, b)]

    def ours() -> Tensor:
        return torch.tensor(frechet_distance(a.mean, a.covariance, b.mean, b.covariance), dtype=torch.float64)

    def sqrtm() -> Tensor:
        return torch.tensor(scipy_sqrtm(a.mean, a.covariance, b.mean, b.covariance), dtype=torch.float64)

    def fidelity() -> Tensor:
        value = fid_statistics_to_metric(*sides, False)[KEY_METRIC_FID]
        return torch.tensor(float(value), dtype=torch.float64)

    name = f"Frechet distance, {size}-d"
    yield Line(
        name, ("Cholesky, symmetric eigenvalues", "scipy.linalg.sqrtm"), ours, sqrtm, same(ours, sqrtm)
    )
    yield Line(
        name,
        ("Cholesky, symmetric eigenvalues", "torch-fidelity's eigenvalues"),
        ours,
        fidelity,
        same(ours, fidelity),
    )
    yield from feature_shapes(scale)
    dimension, groups = scale.pick(512, 16), 50
    features = torch.randn(scale.pick(10_000, 500), dimension, generator=torch.Generator().manual_seed(3))
    of = torch.arange(len(features)) * groups // len(features)
    target = FrechetTarget(random_stats(5000, dimension, 4))

    def jackknife() -> Tensor:
        value, rest = distances_without_groups(features, of, groups, target)
        return torch.tensor([value, *rest], dtype=torch.float64)

    def one_by_one() -> Tensor:
        masks = [torch.ones_like(of, dtype=torch.bool), *(of != group for group in range(groups))]
        return torch.tensor(
            [
                frechet_distance(own.mean, own.covariance, target.stats.mean, target.stats.covariance)
                for own in (FeatureSums.of(features[mask]).stats() for mask in masks)
            ],
            dtype=torch.float64,
        )

    yield Line(
        f"jackknife of 50 groups, {len(features):,} images, {dimension}-d",
        ("sums of groups", "each distance from its features"), jackknife, one_by_one,
        same(jackknife, one_by_one),
    )  # fmt: skip


def feature_shapes(scale: Scale) -> Iterator[Line]:
    """From features to the distance: fewer images than dimensions, as many, and more."""
    for size in (64, 192, 768, 1024, 2048) if not scale.small else (16,):
        target = random_stats(scale.pick(5000, 100), size, 1)
        theirs = {"mu": target.mean.float().numpy(), "sigma": target.covariance.numpy()}
        for count in (size // 4, size, 2 * size, 10 * size):
            generator = torch.Generator().manual_seed(count)
            features = torch.randn(count, size, generator=generator)

            def ours(features: Tensor = features, target: FeatureStats = target) -> Tensor:
                alone = torch.zeros(len(features), dtype=torch.int64)
                value, _ = distances_without_groups(features, alone, 0, FrechetTarget(target))
                return torch.tensor(value, dtype=torch.float64)

            def fidelity(features: Tensor = features, theirs: dict[str, Any] = theirs) -> Tensor:
                own = fid_features_to_statistics(features)
                value = fid_statistics_to_metric(own, theirs, False)[KEY_METRIC_FID]
                return torch.tensor(float(value), dtype=torch.float64)

            yield Line(
                f"features to FID, {count:,} x {size}", ("this program", "torch-fidelity"), ours, fidelity,
                same(ours, fidelity),
            )  # fmt: skip


def neighbours(scale: Scale) -> Iterator[Line]:
    """Precision and recall with their jackknife, beside computing them for every group left out."""
    count, groups = scale.pick(2000, 200), 10
    generator = torch.Generator().manual_seed(0)
    images, real = (torch.randn(count, 256, generator=generator) for _ in range(2))
    of = torch.arange(count) * groups // count
    none = torch.zeros(count, dtype=torch.int64)

    def fast() -> Tensor:
        found = precision_recall_without_groups(images, real, of, groups, 3)
        return torch.tensor([found.precision, found.recall, *found.precisions, *found.recalls])

    def plain() -> Tensor:
        kept = [images, *(images[of != group] for group in range(groups))]
        found = [precision_recall_without_groups(each, real, none[: len(each)], 1, 3) for each in kept]
        whole, rests = found[0], found[1:]
        return torch.tensor(
            [whole.precision, whole.recall, *(r.precision for r in rests), *(r.recall for r in rests)]
        )

    yield Line(
        f"precision and recall, {count:,} images, {groups} groups", ("one pass", "a pass for each group"),
        fast, plain, same(fast, plain),
    )  # fmt: skip


def by_one_worker(groups: Sequence[Sequence[RunSpec]], *, shared: bool) -> None:
    generate(groups, Worker(), lambda *_: None, features=True, shared=shared)


def grid(scale: Scale) -> Iterator[Line]:
    """The digits grid with shared trajectories."""
    seeds = f"0-{scale.pick(124, 24)}"
    for steps in (8, 16) if not scale.small else (4,):
        cells = grid_cells(
            grid_file("digits"), [f"schedule.num_steps={steps}", f"seeds={seeds}", "device=cpu"]
        )[1]
        share: list[float] = []

        def run(shared: bool, cells: Any = cells, share: list[float] = share) -> None:
            with tempfile.TemporaryDirectory() as folder:
                groups = [[_to(spec, folder) for spec in group] for group in trees(cells)]
                by_one_worker(groups, shared=shared)
                if shared:
                    share.append(_evaluations(groups))

        count = sum(len(group) for group in trees(cells))
        yield Line(
            f"grid of {count} runs, {steps} steps", ("shared trajectories", "separate runs"),
            functools.partial(run, True), functools.partial(run, False),
            lambda share=share: f"same bytes, {share[-1]:.1%} of the evaluations",  # type: ignore[misc]
        )  # fmt: skip


def _to(spec: RunSpec, folder: str) -> RunSpec:
    return dataclasses.replace(spec, out=folder)


def _evaluations(groups: Sequence[Sequence[RunSpec]]) -> float:
    """Counted evaluations over those of separate runs."""
    used = separate = 0.0
    for spec in itertools.chain(*groups):
        used += sum(timing.evaluations or 0.0 for timing in RunStore.open(spec).timings().values())
        blocks = blocks_of(spec.seed_range, spec.block_size)
        separate += (2 * spec.schedule.num_steps - 1) * len(blocks) * spec.block_size
    return used / separate


def digits_specs(scale: Scale, folder: str, *overrides: str) -> list[RunSpec]:
    settings = [f"seeds=0-{scale.pick(499, 124)}", f"out={folder}", f"device={scale.device.type}", *overrides]
    if scale.small:
        settings.append("metrics.names=[fd_digits]")
    return table_runs(table_file("digits"), settings, "0-2" if scale.small else "")[1]


def table(scale: Scale) -> Iterator[Line]:
    """The digits table from noise to metrics, in one process."""
    found: dict[str, list[float]] = {}

    def run(name: str, *overrides: str) -> None:
        loaded.network.cache_clear()
        with tempfile.TemporaryDirectory() as folder:
            specs = digits_specs(scale, folder, *overrides)
            by_one_worker([specs], shared=False)
            found[name] = [next(iter(score(spec).metrics.values())).value for spec in specs]
        loaded.network.cache_clear()

    def plain() -> None:
        with plain_attention(), _plain_corrections(), patch.object(loaded, "build_denoiser", unfolded):
            run("plain")

    def moved(name: str) -> Callable[[], str]:
        def told() -> str:
            changes = [abs(one - other) for one, other in zip(found["fast"], found[name], strict=True)]
            return f"FD-digits moves by {max(changes):.1g} at most"

        return told

    count = len(digits_specs(scale, "none"))
    title = f"digits table, {count} rows"
    fast = functools.partial(run, "fast")
    yield Line(title, ("this program", "plain network and correction"), fast, plain, moved("plain"))
    low = functools.partial(run, "bfloat16", "network_dtype=bfloat16")
    yield Line(title, ("network_dtype=bfloat16", "float32"), low, fast, moved("bfloat16"))


def starting(scale: Scale) -> Iterator[Line]:
    """Whole processes: what answers at once beside the import of torch."""

    def process(*words: str, **variables: str) -> Run:
        def run() -> None:
            environment = {**os.environ, **variables}
            subprocess.run([sys.executable, *words], env=environment, capture_output=True, check=False)

        return run

    torch_alone = process("-c", "import torch")
    asked = {
        "_ERK_BENCH_COMPLETE": "zsh_complete",
        "COMP_WORDS": "erk-bench run model=edm2",
        "COMP_CWORD": "2",
    }
    answers = {
        "--help": process("-m", "erk_bench.cli", "--help"),
        "run --help": process("-m", "erk_bench.cli", "run", "--help"),
        "--version": process("-m", "erk_bench.cli", "--version"),
        "a typo (table tabel=digits)": process("-m", "erk_bench.cli", "table", "tabel=digits"),
        "tab completion": process("-m", "erk_bench.cli", **asked),
    }
    for name, answer in answers.items():
        yield Line(
            "start of the program", (f"erk-bench {name}", "python -c 'import torch'"), answer, torch_alone
        )


LINES: dict[str, Callable[[Scale], Iterator[Line]]] = {
    "start": starting,
    "network": networks,
    "arithmetic": arithmetic,
    "sampling": sampling,
    "vae": decoding,
    "detectors": detectors,
    "files": files,
    "frechet": frechet,
    "neighbours": neighbours,
    "grid": grid,
    "table": table,
}


def erk_share(nets: Nets, batch: int, device: torch.device, turns: int) -> list[float]:
    """Time of ERK-Guid's correction over that of a Heun step (two evaluations), for each turn."""
    net = nets.fast
    shape = (batch, net.img_channels, net.img_resolution, net.img_resolution)
    step, correct = _step(shape, device), erk_guid(0.5, 0.3)
    x, labels = step.node.x, torch.eye(net.num_classes, device=device)[torch.arange(batch) % net.num_classes]

    def seconds(run: Run, repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / repeats

    with torch.inference_mode():
        found = []
        for turn in range(turns + 1):
            step_s = 2 * seconds(lambda: net(x, 0.7, labels), 1)
            share = seconds(lambda: correct(step), 20) / step_s
            if turn:  # the first warms up
                found.append(share)
        return found


def profile(scale: Scale) -> dict[str, float]:
    """Shares of one digits table run by what it spends its time on, in one process and thread."""
    spent: dict[str, float] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - start

        return run

    def timed_correction(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *settings: timed("corrections", function(*settings))

    extract = finish_block.extract_all
    decode = sample_block.decoder
    rows = {
        name: each._replace(make=timed_correction(each.make))
        for name, each in corrections.CORRECTIONS.items()
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(EDMPreconditioned, "forward", timed("networks", EDMPreconditioned.forward)),
        patch.object(finish_block, "extract_all", timed("detector", extract)),
        patch.object(sample_block, "decoder", lambda *a: timed("decoding", decode(*a))),
        patch.object(sample_block, "draw_block", timed("drawing", sample_block.draw_block)),
        patch.object(RunStore, "_write", timed("writing (in threads)", RunStore._write)),
        patch.dict(corrections.CORRECTIONS, rows),
    ):
        loaded.network.cache_clear()
        start = time.perf_counter()
        specs = digits_specs(scale, folder)
        spent["composing settings"] = time.perf_counter() - start
        by_one_worker([specs], shared=False)
        begun = time.perf_counter()
        for spec in specs:
            score(spec)
        spent["scoring"] = time.perf_counter() - begun
        total = time.perf_counter() - start
    aside = spent["writing (in threads)"]
    spent["everything else"] = total - sum(spent.values()) + aside
    return {name: seconds / total for name, seconds in sorted(spent.items(), key=lambda item: -item[1])}
