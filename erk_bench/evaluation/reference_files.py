"""Statistics and features of sets of real images, by detector, and the files that hold them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.base.tensor_files import METADATA_KEY, read_tensors, write_tensors
from erk_bench.evaluation.real import Real, check_features, checked_stats
from erk_bench.evaluation.reference_formats import (
    POOL,
    Contents,
    kind_of,
    read_npz,
    read_pickle,
    read_torch,
)

__all__ = ["FORMAT", "Real", "read_contents", "read_facts", "read_reference", "write_reference"]

FORMAT = "erk-bench reference 1"


def read_reference(path: Path) -> dict[str, Real]:
    """The reference in `path` by detector name; a file that names none is taken as Inception's.

    Raises UserError as read_contents does.
    """
    found = read_contents(path)
    return found.reals if found.unnamed is None else {POOL: found.unnamed, **found.reals}


def read_contents(path: Path) -> Contents:
    """What is known of real images in `path`: statistics, features where the file has them.

    Reads our .safetensors, whose features stay in the file until used, EDM2's .pkl, an .npz of any of the
    programs that `read_npz` names, and torch-fidelity's .pt. Nothing in a file is run. The content decides
    where the ending is another. Raises UserError for a file that is missing, damaged, hostile or of another
    kind, and for statistics that are not finite or not symmetric.
    """
    _check_is_file(path)
    kind = path.suffix if path.suffix in READERS else kind_of(path)
    if not kind:
        raise UserError(
            f"reference '{path}' ends in '{path.suffix}'; give a {', '.join(READERS)} file of statistics, or "
            "make one with 'erk-bench reference'"
        )
    return READERS[kind](path)


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


def _open_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Facts without the format, and tensors, which stay in the file until used."""
    facts, tensors = read_tensors(path)
    if not isinstance(facts, dict) or facts.pop("format", None) != FORMAT:
        raise UserError(
            f"'{path}' is no reference: its metadata has not the format '{FORMAT}'; make one "
            "with 'erk-bench reference', or give EDM2's .pkl"
        )
    return facts, tensors


def _read_safetensors(path: Path) -> Contents:
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
        stats = checked_stats(path, name, parts["mean"], parts["covariance"])
        features = parts.get("features")
        if features is not None:
            check_features(path, name, features, len(stats.mean))
        reals[name] = Real(stats, features)
    return Contents(reals)


READERS: dict[str, Callable[[Path], Contents]] = {
    ".pkl": read_pickle,
    ".npz": read_npz,
    ".safetensors": _read_safetensors,
    ".pt": read_torch,
    ".pth": read_torch,
}
