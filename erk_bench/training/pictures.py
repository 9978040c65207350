"""Pictures to train on: the embedded digits, or a folder of a user's own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.digits import data as digits
from erk_bench.evaluation.image_labels import folder_classes
from erk_bench.evaluation.real_images import center_crop, open_images
from erk_bench.networks.decoders import DECODERS, Decode

DIGITS = "digits"


class Pictures(NamedTuple):
    """What networks are trained on.

    images: uint8 [N, C, R, R]. classes: int64 [N]; all 0 where num_classes is 0. clean: float32 [N, C, R, R],
    the images in network space, of standard deviation about 0.5. decode: from there to uint8 images.
    """

    images: Tensor
    classes: Tensor
    num_classes: int
    clean: Tensor
    decode: Decode


def load_pictures(images: str | None, resolution: int) -> Pictures:
    """The digits, or the pictures of a folder, ZIP or tar file, cropped and resized as references are.

    images: 'digits', or where they lie; the folders in it are their classes, in the order of names.
    Raises UserError where there is nothing to train on.
    """
    if images is None:
        raise UserError("images is null; give the pictures to train on: images=FOLDER (a folder a class)")
    if images == DIGITS:
        found = digits.load_digits()
        decode = DECODERS["digits"].decode
        assert decode is not None
        return Pictures(found.images, found.labels, digits.NUM_CLASSES, digits.encode(found.images), decode)
    if resolution < 4:
        raise UserError(f"resolution is {resolution}; give a side in pixels of 4 or more, as resolution=32")
    source = open_images(images)
    stack = torch.stack([center_crop(source.read(index), resolution) for index in range(len(source))])
    classes = folder_classes(source.names)
    labels = source.labels if source.labels is not None else classes.labels if classes else None
    known = torch.tensor(labels if labels is not None else [0] * len(stack))
    decode = DECODERS["rgb"].decode
    assert decode is not None
    number = 0 if labels is None else int(known.max()) + 1
    return Pictures(stack, known, number, stack.float() / 127.5 - 1, decode)
