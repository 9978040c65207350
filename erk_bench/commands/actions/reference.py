"""`erk-bench reference`: reference statistics (and features) from real images."""

from __future__ import annotations

import sys
from pathlib import Path

from erk_bench.base.assets import Assets
from erk_bench.base.errors import UserError
from erk_bench.base.files import file_sha256
from erk_bench.base.progress import progress_bar
from erk_bench.commands.reference import ReferenceOptions
from erk_bench.evaluation.detectors import detector_key, detector_of, load_together, reference_name
from erk_bench.evaluation.make_reference import make_reference
from erk_bench.evaluation.real_images import open_images
from erk_bench.runs.blocks import Worker
from erk_bench.runs.device import set_up_device


def reference(options: ReferenceOptions) -> int:
    """Make a file of reference statistics (and features) from real images."""
    names = options.detectors
    for name in names:
        size = detector_of(name).resolution
        if size not in (None, options.resolution):
            raise UserError(
                f"detector '{name}' takes images of {size}x{size} pixels, and resolution is "
                f"{options.resolution}; write resolution={size} detectors={name}, or leave it out of "
                "detectors"
            )
    worker = Worker.from_environment()
    if worker is not None and worker.world_size > 1:
        raise UserError(
            f"reference works in one process, and WORLD_SIZE is {worker.world_size}; start it without "
            "torchrun"
        )
    assets = Assets.from_environment(options.offline)
    device = set_up_device(options.device, 0)
    images = open_images(options.source)
    if images.remark:
        print(images.remark, file=sys.stderr)
    count = min(len(images.names), options.limit or len(images.names))
    keys = {}
    for name in names:
        weights = detector_of(name).weights
        if weights is not None:
            assets.locate(weights)
        keys[name] = detector_key(name, assets)
    extractors = {
        reference_name(name): extract for name, extract in load_together(keys, assets, device).items()
    }
    called = {reference_name(name): key for name, key in keys.items()}
    to = Path(options.to).expanduser()
    with progress_bar(f"reference {to.name}", count, count, shown=True) as bar:
        make_reference(
            images, options.resolution, extractors, called, to,
            keep_features=options.keep_features, limit=options.limit,
            shuffle_seed=options.shuffle_seed, batch=options.batch, advance=lambda done: bar(done, done),
            tell=lambda line: print(line, file=sys.stderr),
        )  # fmt: skip
    left_out = f" ({images.num_left_out} files left out)" if images.num_left_out else ""
    print(f"{to}: {', '.join(names)} of {count} images{left_out}, sha256 {file_sha256(to)}")
    print(f"use it: metrics.reference={to}, or metrics.real_features={to} if it has features")
    return 0
