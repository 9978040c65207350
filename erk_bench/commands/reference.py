"""`erk-bench reference`: reference statistics (and features) from real images."""

from __future__ import annotations

from dataclasses import dataclass

from erk_bench.commands.command import Command
from erk_bench.commands.options import DEVICE, Flag, Names, PathText, Whole, option


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions:
    """Options of `erk-bench reference`."""

    source: str = option(
        PathText("FOLDER|FILE|SHARDS*.tar"),
        "the real images: a folder, ZIP, uncompressed tar files, .npz (arr_0) or .npy of uint8, or a .txt "
        "that lists files; hidden files, system folders and what is no image are left out, and counted",
    )
    resolution: int = option(
        Whole(), "side in pixels to which images are cropped and resized as ADM and EDM2 do"
    )
    to: str = option(PathText("FILE.safetensors"), "the file to write")
    detectors: tuple[str, ...] = option(
        Names("NAME,..."),
        "networks of the features: inception (FID, IS, KID), vgg16 (precision, recall), dinov2_torch "
        "(FD-DINOv2), dinov2_pil; digits (FD-digits) for grey images with resolution=8; FILE.py:NAME for "
        "one of your own (docs/plugins.md)",
        ("inception", "dinov2_torch"),
    )
    keep_features: bool = option(
        Flag(), "keep the features of every image, which precision, recall and KID need", False
    )
    limit: int | None = option(Whole(), "take only so many images; all unless given", None)
    shuffle_seed: int | None = option(
        Whole(0), "take a random choice of this seed; in the order of names unless given", None
    )
    batch: int = option(Whole(), "images at a time", 50)
    device: str = option(DEVICE, "where the networks run; auto is cuda if there is any", "auto")
    offline: bool = option(Flag(), "true never uses the network: what is missing is an error", False)


def reference(options: ReferenceOptions, words: list[str]) -> int:
    from erk_bench.commands.actions import reference as action

    return action.reference(options)


COMMAND = Command(
    name="reference",
    summary="make reference statistics (and features) from real images",
    run=reference,
    options=ReferenceOptions,
    examples="""\
  erk-bench reference source=imagenet/val resolution=512 to=val512.safetensors
  erk-bench reference source=val.zip resolution=512 to=real.safetensors detectors=vgg16 keep_features=true
  erk-bench reference source='shards/train-*.tar' resolution=64 to=train64.safetensors limit=50000 \\
      shuffle_seed=1                                        # a random choice; the features above serve
                                                            # precision and recall
  erk-bench reference source=digits-png resolution=8 detectors=digits to=digits.safetensors   # an export's
  Grey images get three equal channels. Stopped, the same command goes on.""",
)
