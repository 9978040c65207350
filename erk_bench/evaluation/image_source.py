"""An ordered collection of images in files, whatever holds them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.evaluation.decoding import READ_ERRORS, decode, examine, lacking
from erk_bench.evaluation.image_files import LeftOut, summary, visible

T = TypeVar("T")


class Form(NamedTuple):
    """How the bytes of an image become pixels. image: in mode RGB. tensor: uint8 [3, H, W], perhaps a view of
    another order in memory."""

    image: Callable[[bytes], Image.Image]
    tensor: Callable[[bytes], Tensor]


FILE = Form(decode, lambda raw: torch.from_numpy(np.array(decode(raw))).permute(2, 0, 1))


@dataclass(frozen=True)
class ImageSource:
    """An ordered collection of images; reading is safe from several threads at once.

    place: where it lies, for messages. names: of the images, in order, relative to the place.
    load: the bytes of image `index`. stamps: for each image numbers that change with its content, and
    may change without it (size, time, ...). left_out: the files that are not of the set, by reason.
    labels: the class of each image where files beside them say it. inside: the names without that of the
    shard; the same as names where empty. form: what the bytes of image `index` are.
    size: (height, width) where that of all images is known unread. listed: the order was given by the user.
    """

    place: str
    names: Sequence[str]
    load: Callable[[int], bytes]
    stamps: Sequence[tuple[int, ...]] = ()
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)
    labels: Sequence[int] | None = None
    inside: Sequence[str] = ()
    form: Callable[[int], Form] = lambda index: FILE
    size: tuple[int, int] | None = None
    listed: bool = False

    def __len__(self) -> int:
        return len(self.names)

    @property
    def remark(self) -> str:
        """One line that counts what was left out and names the first few; empty if nothing was."""
        if not self.num_left_out:
            return ""
        files = "1 file is" if self.num_left_out == 1 else f"{self.num_left_out} files are"
        return f"{files} left out of '{visible(self.place)}': {summary(self.left_out)}"

    @property
    def num_left_out(self) -> int:
        """Files that are not of the set; a hidden folder counts once."""
        return sum(each.number for each in self.left_out.values())

    def read(self, index: int) -> Image.Image:
        """Image `index`, decoded, in mode RGB; see `decode`. Raises UserError, naming the image, for one that
        cannot be read."""
        return self.read_hashed(index)[0]

    def read_hashed(self, index: int) -> tuple[Image.Image, bytes]:
        """Image `index` as `read` gives it, and the sha256 of its file."""
        raw = self.raw(index)
        return self.image(index, raw), hashlib.sha256(raw).digest()

    def image(self, index: int, raw: bytes) -> Image.Image:
        """Image `index` of these bytes, in mode RGB. Raises UserError, naming it, as `read` does."""
        with self._naming(index):
            return self.form(index).image(raw)

    def tensor(self, index: int, raw: bytes) -> Tensor:
        """Image `index` of these bytes as uint8 [3, H, W], perhaps a view of another order in memory.

        Raises UserError, naming the image, as `read` does.
        """
        with self._naming(index):
            return self.form(index).tensor(raw)

    def examined(self, index: int) -> tuple[bytes, int, int]:
        """The sha256 of image `index`, its height and width, decoded only where needed, see `examine`.

        Raises UserError, naming the image, for one that cannot be read.
        """
        raw = self.raw(index)
        with self._naming(index):
            height, width = self.size or examine(raw)
            return hashlib.sha256(raw).digest(), height, width

    def in_order(self, order: Sequence[int]) -> ImageSource:
        """The images `order`, in this order."""
        load, form = self.load, self.form

        def taken(values: Sequence[T]) -> list[T]:
            return [values[index] for index in order] if values else []

        return replace(
            self,
            names=taken(self.names),
            load=lambda index: load(order[index]),
            form=lambda index: form(order[index]),
            stamps=taken(self.stamps),
            labels=None if self.labels is None else taken(self.labels),
            inside=taken(self.inside),
        )

    def sha256(self, index: int) -> bytes:
        """Of the file of image `index`. Raises UserError for one that cannot be read."""
        return hashlib.sha256(self.raw(index)).digest()

    def raw(self, index: int) -> bytes:
        """The bytes of image `index`. Raises UserError, naming the image, where they cannot be read."""
        with self._naming(index):
            return self.load(index)

    @contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        """Turns an error of reading image `index` into a UserError that names it."""
        name = self.names[index]
        try:
            yield
        except UserError as error:
            raise UserError(f"image '{visible(name)}' of '{self.place}' {error}") from error
        except READ_ERRORS as error:
            # Pillow's own words end in the address of an object.
            words = "no image" if isinstance(error, UnidentifiedImageError) else visible(str(error))
            raise UserError(
                f"cannot read image '{visible(name)}' of '{self.place}' ({type(error).__name__}: {words})"
                f"{lacking(name)}; copy it again, or take it out of the set"
            ) from error
