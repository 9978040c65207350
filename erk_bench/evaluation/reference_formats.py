"""Files in which other programs keep statistics, features or images of a reference set, read closed.

Nothing in a file is run. Most of them do not say which network made them; what a file does say, by its arrays
or by the name that its program gives it, is kept.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.base.npz_files import array_shapes, read_arrays
from erk_bench.base.pickles import STATISTICS, load_pickle
from erk_bench.base.torch_files import read_torch_file
from erk_bench.evaluation.array_images import open_array
from erk_bench.evaluation.frechet import FeatureSums
from erk_bench.evaluation.real import MAX_DIM, Real, check_features, checked_stats

PUBLISHED_KEYS = {"fid": "inception", "fd_dinov2": "dinov2_torch"}  # EDM2's pickles -> our detectors
POOL, SPATIAL = "inception", "inception_spatial"  # ADM's statistics
MAX_FEATURES = 1 << 28  # values of a file's features: 131,072 images of 2,048
IMAGES = "arr_0"
STATISTICS_NAMES = (("mu", "sigma"), ("ref_mu", "ref_sigma"))
SPATIAL_NAMES = ("mu_s", "sigma_s")
FEATURES_NAMES = ("feats", "reps")  # clean-fid's and dgm-eval's

# dgm-eval's word for a network -> our detector that prepares images as it does.
DGM_MODELS = {"dinov2": "dinov2_pil", "inception": "inception_pytorch"}
# clean-fid's mode, in the names of its files.
CLEAN_MODES = {
    "clean": "inception_clean", "legacy_tensorflow": "inception", "legacy_pytorch": "inception_pytorch",
}  # fmt: skip
CLEAN_NAME = re.compile(rf".+_({'|'.join(CLEAN_MODES)})(_clip_vit_b_32)?_[a-z0-9]+_(na|\d+)(_kid)?\.npz")
# torch-fidelity's names of a network and one of its layers, in the names of its cached files.
FIDELITY_LAYERS = {("inception-v3-compat", "2048"): "inception", ("vgg16", "fc2_relu"): "vgg16"}
FIDELITY_NAME = re.compile(
    r".+-(inception-v3-compat|vgg16|(?:clip|dinov2)-[a-z0-9-]+?)-(?:stat-fid|features)-(.+)\.pt"
)
OTHERWISE = "if it is of one of them after all, rename it or write DETECTOR=FILE"


class Contents(NamedTuple):
    """What a file of another program has.

    reals: by the detector that the file tells, `by_name` if only its name does. unnamed: of a detector that
    it does not tell. images: number, height and width of the images in it (`arr_0`), which stay unread.
    unused: names of what else it holds.
    """

    reals: dict[str, Real]
    unnamed: Real | None = None
    by_name: bool = False
    images: tuple[int, int, int] | None = None
    unused: tuple[str, ...] = ()


def read_pickle(path: Path) -> Contents:
    """EDM2's img512.pkl or img64.pkl. Raises UserError for another, damaged or hostile file."""
    content = load_pickle(path, STATISTICS)
    if not isinstance(content, dict) or not any(key in content for key in PUBLISHED_KEYS):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise UserError(
            f"reference '{path}' holds none of the statistics {', '.join(PUBLISHED_KEYS)}; it holds: "
            f"{found}; give EDM2's img512.pkl or img64.pkl"
        )
    reals = {}
    for key, name in PUBLISHED_KEYS.items():
        if key in content:
            entry = content[key]
            if not isinstance(entry, dict) or not {"mu", "sigma"} <= set(entry):
                found = ", ".join(map(str, entry)) if isinstance(entry, dict) else type(entry).__name__
                raise UserError(
                    f"reference '{path}': '{key}' holds {found}; expected mu and sigma: download the file "
                    "again"
                )
            reals[name] = Real(checked_stats(path, name, entry["mu"], entry["sigma"]))
    return Contents(reals)


def read_npz(path: Path) -> Contents:
    """An .npz of ADM, EDM, JiT, pytorch-fid, clean-fid, FDr6 or dgm-eval; see docs/references.md.

    Raises UserError for a file that is damaged or holds none of them, for features of a network that no
    detector is, and for statistics that make no sense. Images stay unread.
    """
    shapes = array_shapes(path)
    names = list(shapes)
    used: list[str] = []
    sizes = {"mu": MAX_DIM, "sigma": MAX_DIM**2}

    def stats_of(pair: tuple[str, str], detector: str) -> Real | None:
        if not set(pair) <= set(names):
            return None
        used.extend(pair)
        arrays = read_arrays(path, dict(zip(pair, sizes.values(), strict=True)))
        return Real(checked_stats(path, detector, *(arrays[name] for name in pair)))

    found = [real for pair in STATISTICS_NAMES if (real := stats_of(pair, "")) is not None]
    spatial = stats_of(SPATIAL_NAMES, SPATIAL)
    features = next((name for name in FEATURES_NAMES if name in names), None)
    if features is not None and not found:
        used.append(features)
        array = read_arrays(path, {features: MAX_FEATURES})[features]
        found = [_of_features(path, torch.from_numpy(array))]
    images = None
    if IMAGES in names:
        used.append(IMAGES)
        images = _size(path, shapes[IMAGES])
    if not found and spatial is None and images is None:
        raise UserError(
            f"reference '{path}' holds {', '.join(names) or 'nothing'}; expected mu and sigma, features "
            f"({', '.join(FEATURES_NAMES)}) or images ({IMAGES}): give a file of statistics"
        )
    reals = {} if spatial is None else {SPATIAL: spatial}
    detector, by_name = POOL, False
    if spatial is None and images is None:
        if {"reps", "model"} <= set(names):
            used.append("model")
            detector = _dgm_detector(path)
        else:
            detector = _clean_detector(path)
            by_name = bool(detector)
    unused = tuple(name for name in names if name not in used)
    if found and detector:
        reals[detector] = found[0]
    return Contents(reals, None if detector or not found else found[0], by_name, images, unused)


def read_torch(path: Path) -> Contents:
    """Statistics or features as torch-fidelity caches them: NAME-NETWORK-stat-fid-LAYER.pt and the like.

    Raises UserError for a file that is damaged, of another kind, or of a network that no detector is.
    """
    named = FIDELITY_NAME.fullmatch(path.name)
    detector = None
    if named is not None:
        detector = FIDELITY_LAYERS.get((named[1], named[2]))
        if detector is None:
            known = ", ".join(" ".join(pair) for pair in FIDELITY_LAYERS)
            raise UserError(
                f"reference '{path}' is of torch-fidelity's '{named[1]}', layer '{named[2]}', which no "
                f"detector computes as it does; known: {known}; {OTHERWISE}"
            )
    content = read_torch_file(path)
    if isinstance(content, dict) and set(content) == {"mu", "sigma"}:
        real = Real(checked_stats(path, detector or "", content["mu"], content["sigma"]))
    elif isinstance(content, Tensor):
        real = _of_features(path, content)
    else:
        held = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        raise UserError(
            f"reference '{path}' holds {held or 'nothing'}; expected mu and sigma, or features as one "
            "tensor, as torch-fidelity writes them"
        )
    return Contents({}, real) if detector is None else Contents({detector: real}, by_name=True)


def kind_of(path: Path) -> str:
    """The ending that fits what a file begins with; "" for none that is read."""
    with path.open("rb") as file:
        head = file.read(16)
    if head[:2] == b"PK":
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.namelist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return ""
        return ".pt" if any(name.endswith("data.pkl") for name in members) else ".npz"
    if head[:1] == b"\x80":
        return ".pkl"
    return ".safetensors" if head[8:9] == b"{" else ""


def _of_features(path: Path, features: Tensor) -> Real:
    """Statistics and float32 features [N, D] of what a program kept, which may be float64."""
    where = f"reference '{path}'"
    if not features.is_floating_point() or features.ndim != 2 or len(features) < 2:
        raise UserError(
            f"{where}: the features are {features.dtype} {list(features.shape)}; expected floats [N, D] of "
            "at least 2 images: make the file again with its program"
        )
    if features.shape[1] > MAX_DIM:
        raise UserError(
            f"{where}: features of {features.shape[1]} dimensions; at most {MAX_DIM} are read: it is of "
            "another kind"
        )
    features = features.float()
    check_features(path, "", features, features.shape[1])
    return Real(FeatureSums.of(features).stats(), features)


def _dgm_detector(path: Path) -> str:
    model = str(read_arrays(path, {"model": 1})["model"])
    if model not in DGM_MODELS:
        raise UserError(
            f"reference '{path}' has features of dgm-eval's '{model[:40]}', which no detector computes as it "
            f"does; known: {', '.join(DGM_MODELS)}"
        )
    return DGM_MODELS[model]


def _clean_detector(path: Path) -> str:
    """The detector of a file with the name that clean-fid gives it; "" for other names."""
    clean = CLEAN_NAME.fullmatch(path.name)
    if clean is None:
        return ""
    if clean[2]:
        raise UserError(
            f"reference '{path}' is of clean-fid's 'clip_vit_b_32', which no detector computes as it does; "
            f"known: {', '.join(CLEAN_MODES)} of its Inception; {OTHERWISE}"
        )
    return CLEAN_MODES[clean[1]]


def _size(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape:
        raise UserError(
            f"reference '{path}': {IMAGES} has shape {list(shape)}; expected images [N, H, W, C] with 1 or 3 "
            "channels"
        )
    return shape[0], shape[1], shape[2]


def read_images(path: Path, batch: int) -> Iterator[Tensor]:
    """The images of an .npz in mode RGB, uint8 [B, 3, H, W], `batch` at a time, which alone are in memory."""
    images = open_array(path)
    for first in range(0, images.num_images, batch):
        rows = range(first, min(first + batch, images.num_images))
        yield torch.stack([images.tensor(images.load(row)) for row in rows])
