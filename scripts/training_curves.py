"""Draws how the loss of the shipped denoisers fell (results/figures/training.*), from their training records.

    .venv/bin/python scripts/training_curves.py

The loss is EDM2's (arXiv 2312.02696, eq. 21), whose level depends on the pictures and on the noise levels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import erk_bench
from erk_bench.base.files import write_atomic
from erk_bench.reporting.table_figures import to_bytes

TRACKS = ("digits", "cifar16", "cifar32")
NETWORKS = ("denoiser", "unconditional", "weaker")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--to", type=Path, default=Path("results/figures"), help="folder")
    words = parser.parse_args()
    figure, axes = plt.subplots(1, len(TRACKS), figsize=(12, 3.6), layout="constrained")
    for axis, track in zip(axes, TRACKS, strict=True):
        for name in NETWORKS:
            file = Path(erk_bench.__file__).parent / track / "weights" / f"{name}.json"
            record = json.loads(file.read_text())
            batch = record["recipe"]["batch_size"]
            seen = [point["iteration"] * batch / 1e3 for point in record["loss"]]
            axis.plot(seen, [point["loss"] for point in record["loss"]], marker=".", label=name)
        axis.set(title=track, xlabel="thousands of images seen")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("training loss, mean of a twentieth")
    axes[-1].legend()
    words.to.mkdir(parents=True, exist_ok=True)
    for kind in ("png", "svg"):
        write_atomic(words.to / f"training.{kind}", to_bytes(figure, kind))
    print(f"drawn: {words.to / 'training.png'}")


if __name__ == "__main__":
    main()
