"""`erk-bench score`: metrics of images that something else made."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from erk_bench.base.errors import UserError, unknown_name
from erk_bench.commands.command import Command
from erk_bench.commands.options import DEVICE, FOLDER, Choice, Flag, Names, PathText, Whole, option

MOST_WORDS = 2  # the sets, and the reference


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Options of `erk-bench score`."""

    images: str | None = option(
        PathText("SET,..."),
        "the images: a folder (class folders too), a ZIP, tar or WebDataset shards ('train-*.tar'), an .npz "
        "with arr_0, an .npy, or a text file of paths; several sets, with commas between them, are scored "
        "one by one",
        None,
    )
    reference: str | None = option(
        PathText("FILE|NAME|SET"),
        "what they are compared with: statistics (.safetensors of 'erk-bench reference', EDM2's .pkl, or an "
        ".npz with mu and sigma as ADM, EDM, JiT, pytorch-fid and clean-fid write), 'digits', or another "
        "set of images, whose features are kept",
        None,
    )
    metrics: tuple[str, ...] = option(
        Names("NAME,..."),
        "what to measure: fid, fd_dinov2, kid, precision, ..., or any FAMILY@DETECTOR (docs/metrics.md); "
        "fid unless given, and fd_digits for the reference 'digits'",
        (),
    )
    protocol: str | None = option(
        Choice("adm", "edm2", "fidelity", "clean", "dgm", "fdr6"),
        "measure as a published program does: its metrics, and what it fixes (docs/protocols.md)",
        None,
    )
    name: tuple[str, ...] = option(
        Names("NAME,..."), "what the sets are called in tables; the last part of their place unless given", ()
    )
    resolution: int | None = option(
        Whole(), "crop and resize every image to this side, as ADM does; as they are unless given", None
    )
    skip_unreadable: bool = option(
        Flag(), "leave out images that cannot be read, and name them in the record", False
    )
    real_features: str | None = option(
        PathText("FILE.safetensors"),
        "features of real images for precision, recall and KID, where the reference is statistics only",
        None,
    )
    num_groups: int = option(Whole(2), "jackknife groups of the standard errors", 50)
    kid_subsets: int = option(Whole(), "random subsets over which KID is a mean", 100)
    kid_subset_size: int = option(Whole(2), "images of such a subset", 1000)
    block_size: int | None = option(
        Whole(), "images at a time, and in each file of features; 100 unless given", None
    )
    workers: int | None = option(
        Whole(), "processes; one a GPU, or a CPU core, unless given; torchrun sets its own", None
    )
    device: str = option(DEVICE, "where the networks run; auto is cuda if there is any", "auto")
    offline: bool = option(Flag(), "true never uses the network: what is missing is an error", False)
    pictures: str | None = option(
        FOLDER,
        "also draw there what to look at when a figure is off: a sample of each set, its most and least "
        "typical images beside the nearest real ones, and the distance of each class",
        None,
    )
    out: str = option(FOLDER, "where features and records are kept", "results/runs")


def check(words: Sequence[str]) -> None:
    """At most the sets and the reference, in this order, and settings of the tracker."""
    words = [word for word in words if not word.startswith(("tracker=", "tracker."))]
    for word in words:
        name, equals, _ = word.partition("=")
        if equals and name.isidentifier() and not Path(word).exists():
            known = [field.name for field in dataclasses.fields(ScoreOptions)]
            raise unknown_name("option of score", name, [*known, "tracker"])
    if len(words) > MOST_WORDS:
        raise UserError(
            f"score takes a set and a reference, and got {len(words)} words: {' '.join(words)}; write "
            "several sets with commas between them"
        )


def score(options: ScoreOptions, words: list[str]) -> int:
    from erk_bench.commands.actions import score as action

    return action.score(options, words)


COMMAND = Command(
    name="score",
    summary="score images that anything made: a folder, an archive, an array",
    run=score,
    options=ScoreOptions,
    words="[SET REFERENCE]",
    check=check,
    examples="""\
  erk-bench score my_images/ real_images/                   # FID of two folders
  erk-bench score images=samples.npz reference=VIRTUAL_imagenet256_labeled.npz protocol=adm
  erk-bench score images=a/,b.zip,'c-*.tar' reference=edm2:dataset-refs/img512.pkl metrics=fid,fd_dinov2
  erk-bench score images=digits-png reference=digits        # an export of the embedded benchmark
  erk-bench score images=photos/ reference=val512.safetensors resolution=512 skip_unreadable=true
  erk-bench score my_images/ real_images/ pictures=look     # sheets: typical and odd images, classes
  erk-bench score a/ real/ metrics=fid,kid tracker=wandb    # the results on W&B (docs/wandb.md)
  torchrun --nproc_per_node=8 -m erk_bench.cli score images=samples/ reference=ref.npz
  Stopped, the same command goes on; asked again for other metrics, it reads only what is missing.""",
)
