"""The reference statistics that cifar16 and cifar32 ship: of 10,000 pictures, with features of 500 of them.

    .venv/bin/python scripts/photographs_reference.py cifar32 cifar10/train

The folder is that of 'erk-bench train recipe=cifar32'. The pictures are a random choice of seed 1.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

import erk_bench
from erk_bench.base.assets import Assets
from erk_bench.evaluation.detectors import detector_key, load_together
from erk_bench.evaluation.make_reference import make_reference
from erk_bench.evaluation.real import Real
from erk_bench.evaluation.real_images import open_images
from erk_bench.evaluation.reference_files import read_facts, read_reference, write_reference

RESOLUTIONS = {"cifar16": 16, "cifar32": 32}
IMAGES, KEPT = 10_000, 500


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("track", choices=RESOLUTIONS, help="whose classifier and resolution are used")
    parser.add_argument("pictures", help="folder of CIFAR-10's training pictures, a folder for each class")
    parser.add_argument("--to", type=Path, help="file to write (the shipped one)")
    parser.add_argument("--images", type=int, default=IMAGES, help="pictures of the statistics")
    options = parser.parse_args()
    torch.set_num_threads(1)
    assets = Assets.from_environment()
    keys = {name: detector_key(name, assets) for name in ("lite0", options.track)}
    shipped = Path(erk_bench.__file__).parent / options.track / "weights" / "reference.safetensors"
    out = options.to or shipped
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.safetensors"
        make_reference(
            open_images(options.pictures), RESOLUTIONS[options.track], load_together(keys, assets, "cpu"),
            keys, whole, keep_features=True, limit=options.images, shuffle_seed=1, batch=50,
            advance=lambda images: None,
        )  # fmt: skip
        facts = read_facts(whole)
        kept = {}
        for name, real in read_reference(whole).items():
            assert real.features is not None
            chosen = torch.randperm(len(real.features), generator=torch.Generator().manual_seed(1))[:KEPT]
            kept[name] = Real(real.stats, real.features[chosen])
        write_reference(out, kept, {**facts, "kept_features": KEPT})
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
