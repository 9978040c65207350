"""Statistics and features of sets of real images, by detector, and the files that hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.base.npz_files import read_arrays
from erk_bench.base.pickles import STATISTICS, load_pickle
from erk_bench.base.tensor_files import METADATA_KEY, read_tensors, write_tensors
from erk_bench.evaluation.frechet import FeatureStats

FORMAT = "erk-bench reference 1"
PUBLISHED_KEYS = {"fid": "inception", "fd_dinov2": "dinov2_torch"}  # EDM2's pickles -> our detectors
NPZ_DETECTOR = "inception"  # EDM1's files have no other
ASYMMETRY = 1e-6  # of a covariance, relative to its largest entry
MAX_DIM = 8192  # of features; the widest published ones have 4096


@dataclass(frozen=True)
class Real:
    """What is known of the real images in one detector's features.

    stats: mean [D] and covariance [D, D], float64, or None. features: float32 [N, D], or None; published
    statistics come without them, and precision, recall and KID need them.
    """

    stats: FeatureStats | None
    features: Tensor | None = None


def read_reference(path: Path) -> dict[str, Real]:
    """The reference in `path` by detector name: statistics always, features where the file has them.

    Reads EDM2's .pkl (img512.pkl, img64.pkl; restricted, nothing in it is run), EDM1's .npz (mu, sigma) and
    our .safetensors, whose features stay in the file until used. Raises UserError for a file that is missing,
    damaged, hostile or of another kind, and for statistics that are not finite or not symmetric.
    """
    _check_is_file(path)
    readers = {".pkl": _read_pickle, ".npz": _read_npz, ".safetensors": _read_safetensors}
    if path.suffix not in readers:
        raise UserError(
            f"reference '{path}' ends in '{path.suffix}'; give a {', '.join(readers)} file of statistics, or "
            "make one with 'erk-bench reference'"
        )
    return readers[path.suffix](path)


def read_facts(path: Path) -> dict[str, Any]:
    """What a .safetensors reference says about itself, as given to `write_reference`; {} for .pkl, .npz."""
    _check_is_file(path)
    return _open_safetensors(path)[0] if path.suffix == ".safetensors" else {}


def write_reference(path: Path, reals: Mapping[str, Real], facts: Mapping[str, Any]) -> None:
    """Write our .safetensors reference, complete under its name or not at all.

    Tensors: NAME.mean and NAME.covariance float64, NAME.features float32 where there are any. facts: anything
    that JSON holds; `make_reference` gives detector keys, number of images, resolution and source.
    Raises UserError for another suffix, a detector without statistics, a full disk.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"reference '{path}' must end in .safetensors, the format that is written")
    tensors = {}
    for name, real in reals.items():
        if real.stats is None:
            raise UserError(f"detector '{name}' has no statistics to write to '{path}'; compute them first")
        tensors[f"{name}.mean"] = real.stats.mean.double()
        tensors[f"{name}.covariance"] = real.stats.covariance.double()
        if real.features is not None:
            tensors[f"{name}.features"] = real.features.float()
    meta = json.dumps({"format": FORMAT, **facts}, sort_keys=True)
    write_tensors(path, tensors, {METADATA_KEY: meta})


def _check_is_file(path: Path) -> None:
    if not path.is_file():
        what = "is a folder; give the file in it" if path.is_dir() else "does not exist; check the path"
        raise UserError(f"reference '{path}' {what}")


def _read_pickle(path: Path) -> dict[str, Real]:
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
            reals[name] = Real(_checked_stats(path, name, entry["mu"], entry["sigma"]))
    return reals


def _read_npz(path: Path) -> dict[str, Real]:
    arrays = read_arrays(path, {"mu": MAX_DIM, "sigma": MAX_DIM**2})
    return {NPZ_DETECTOR: Real(_checked_stats(path, NPZ_DETECTOR, arrays["mu"], arrays["sigma"]))}


def _open_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Facts without the format, and tensors, which stay in the file until used."""
    facts, tensors = read_tensors(path)
    if not isinstance(facts, dict) or facts.pop("format", None) != FORMAT:
        raise UserError(
            f"'{path}' is no reference: its metadata has not the format '{FORMAT}'; make one "
            "with 'erk-bench reference', or give EDM2's .pkl"
        )
    return facts, tensors


def _read_safetensors(path: Path) -> dict[str, Real]:
    tensors = _open_safetensors(path)[1]
    detectors: dict[str, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        name, _, part = full_name.rpartition(".")
        detectors.setdefault(name, {})[part] = tensor
    if not detectors:
        raise UserError(
            f"reference '{path}' holds no detector's statistics; make it again with 'erk-bench reference'"
        )
    reals = {}
    for name, parts in sorted(detectors.items()):
        if not name or not {"mean", "covariance"} <= set(parts) <= {"mean", "covariance", "features"}:
            raise UserError(
                f"reference '{path}': detector '{name}' has the tensors {', '.join(sorted(parts))}; expected "
                "mean, covariance and perhaps features: make it again with 'erk-bench reference'"
            )
        stats = _checked_stats(path, name, parts["mean"], parts["covariance"])
        features = parts.get("features")
        if features is not None:
            _check_features(path, name, features, len(stats.mean))
        reals[name] = Real(stats, features)
    return reals


def _checked_stats(path: Path, name: str, mean: Any, covariance: Any) -> FeatureStats:
    """Mean [D] and covariance [D, D] as float64, or the one UserError that says what is wrong with them."""
    where = f"reference '{path}', detector '{name}'"
    remedy = "the file is damaged or of another kind: download it again or make it anew"
    values = []
    for title, value in (("mean", mean), ("covariance", covariance)):
        array = value.numpy() if isinstance(value, Tensor) else value
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise UserError(f"{where}: the {title} is {kind}; expected an array of numbers: {remedy}")
        if array.size > MAX_DIM**2:
            raise UserError(
                f"{where}: the {title} has shape {list(array.shape)}; features of at most {MAX_DIM} values "
                f"are read: {remedy}"
            )
        values.append(torch.from_numpy(array.astype(np.float64)))
    m, s = values
    if m.ndim != 1 or not len(m) or s.shape != (len(m), len(m)):
        raise UserError(
            f"{where}: mean and covariance have shapes {list(m.shape)} and {list(s.shape)}; expected [D] and "
            f"[D, D]: {remedy}"
        )
    for title, tensor in (("mean", m), ("covariance", s)):
        if not tensor.isfinite().all():
            number = int((~tensor.isfinite()).sum())
            raise UserError(f"{where}: {number} values of the {title} are not finite; {remedy}")
    gap, largest = float((s - s.T).abs().max()), float(s.abs().max())
    if gap > ASYMMETRY * largest:
        raise UserError(
            f"{where}: the covariance is not symmetric (entries differ by {gap:.3g}, the largest is "
            f"{largest:.3g}; at most {ASYMMETRY:g} of it is rounding); {remedy}"
        )
    return FeatureStats(m, s)


def _check_features(path: Path, name: str, features: Tensor, width: int) -> None:
    where = f"reference '{path}', detector '{name}'"
    if features.dtype != torch.float32 or features.ndim != 2 or features.shape[1] != width:
        raise UserError(
            f"{where}: the features are {features.dtype} {list(features.shape)}; expected torch.float32 "
            f"[N, {width}], as wide as the mean: make it again with 'erk-bench reference'"
        )
    # aminmax makes no copy, and a NaN anywhere comes through.
    if len(features) and not torch.stack(torch.aminmax(features)).isfinite().all():
        raise UserError(f"{where}: features are not finite; make it again with 'erk-bench reference'")
