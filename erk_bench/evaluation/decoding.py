"""The bytes of an image file to 8-bit RGB, whatever mode it is stored in."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zipfile
import zlib
from contextlib import nullcontext
from pathlib import PurePath

import numpy as np
import PIL
from PIL import Image, features

from erk_bench.base.errors import UserError

EIGHT_BIT_MODES = (
    "1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB",
)  # fmt: skip
# What Pillow, zipfile and the file system raise for damaged or unreadable images.
READ_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError, MemoryError,
    OverflowError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile, Image.DecompressionBombError,
)  # fmt: skip
# Formats that some builds of Pillow lack, and what Pillow calls the part that reads them.
OPTIONAL = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp", "JPEG": "jpg"}

LARGE = 1 << 25  # pixels of an image that is decoded while no other large one is
_one_large = threading.Lock()
# Pillow warns from 89 million pixels on, and refuses twice as many; the lock above bounds the memory between.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_UNUSED = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # no part in the pixels, and Pillow refuses long ones
TIFF_BITS, TIFF_PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0


def decode(raw: bytes) -> Image.Image:
    """An image file's first frame in mode RGB, 8 bits a channel.

    Grey, palette and CMYK are converted, transparency is dropped, EXIF orientation and colour profiles are
    not applied. 16-bit grey is scaled, the whole range to 0..255; so are floats between 0 and 1.
    Raises one of READ_ERRORS for what Pillow cannot read, UserError for values of unknown range.
    """
    image = Image.open(io.BytesIO(_without_text(raw)))
    with image, _one_large if image.width * image.height > LARGE else nullcontext():
        if image.mode in EIGHT_BIT_MODES:
            image.load()
            image.info.pop("transparency", None)  # Pillow warns of it, and the pixels do not change
            return image.convert("RGB")
        return Image.fromarray(_grey(image)).convert("RGB")


def examine(raw: bytes) -> tuple[int, int]:
    """(height, width) of an image file that `decode` reads.

    Only the header is read where the structure of a PNG or JPEG shows that it is whole; others are decoded.
    Raises what `decode` raises.
    """
    with Image.open(io.BytesIO(_without_text(raw))) as image:
        size = image.height, image.width
        eight_bit = image.mode in EIGHT_BIT_MODES
    if not (eight_bit and _is_whole(raw)):
        decode(raw)
    return size


def _is_whole(raw: bytes) -> bool:
    """Whether this is a PNG with all chunks and their checksums, or a JPEG with an end."""
    if raw.startswith(JPEG_START):
        return raw.rstrip(b"\0").endswith(JPEG_END)
    if not raw.startswith(PNG_START):
        return False
    view, position, kind = memoryview(raw), len(PNG_START), b""
    while kind != b"IEND":
        end = position + 12 + int.from_bytes(view[position : position + 4], "big")
        kind = raw[position + 4 : position + 8]
        if end > len(raw) or zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(
            view[end - 4 : end], "big"
        ):
            return False
        position = end
    return True


def _grey(image: Image.Image) -> np.ndarray:
    """A grey image of more than 8 bits, which Pillow itself would clip to white, as uint8 [H, W]."""
    mode, form = image.mode, image.format
    values = np.asarray(image).astype(np.float64)
    tags = image.tag_v2 if form == "TIFF" else {}  # type: ignore[attr-defined]  # of Pillow's TIFF images
    if mode.startswith("I;16") or (mode == "I" and form in ("PNG", "PPM")):  # these are scaled to 16 bits
        top = 2 ** int(tags.get(TIFF_BITS, (16,))[0]) - 1
        what = f"values from 0 to {top}"
    elif mode == "F":
        top, what = 1, "floats from 0 to 1"
    else:
        raise UserError(f"has mode '{mode}', numbers of unknown range; convert it to 8 bits")
    if not (values.min() >= 0 and values.max() <= top):  # nor for NaN
        raise UserError(
            f"has values from {values.min():g} to {values.max():g}, and of mode '{mode}' only {what} are "
            "understood; convert it to 8 bits"
        )
    grey = (values * (255 / top)).round().astype(np.uint8)
    # Pillow turns such a TIFF to black on white itself where it has 8 bits.
    return 255 - grey if tags.get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO else grey


def _without_text(raw: bytes) -> bytes:
    """A PNG without text and colour profile."""
    if not raw.startswith(PNG_START):
        return raw
    parts, position = [PNG_START], len(PNG_START)
    while position < len(raw):
        end = position + 12 + int.from_bytes(raw[position : position + 4], "big")
        if raw[position + 4 : position + 8] not in PNG_UNUSED:
            parts.append(raw[position:end])
        position = end
    return b"".join(parts)


def lacking(name: str) -> str:
    """What Pillow lacks to read a file of this name, as the end of a sentence; empty if nothing is known."""
    form = Image.registered_extensions().get(PurePath(name).suffix.lower(), "")
    if form in OPTIONAL and not features.check(OPTIONAL[form]):
        return f"; this Pillow ({PIL.__version__}) was built without {form}: install one that has it"
    return ""
