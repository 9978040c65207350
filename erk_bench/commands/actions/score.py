"""`erk-bench score`: sets of images measured, and compared where there are several."""

from __future__ import annotations

from collections.abc import Sequence

from erk_bench.base.errors import UserError
from erk_bench.commands.run import show_record
from erk_bench.commands.score import ScoreOptions
from erk_bench.commands.tracking import tracked
from erk_bench.evaluation.metrics import METRICS
from erk_bench.runs.score import record_path
from erk_bench.runs.store import RunStore
from erk_bench.spec import MetricsSpec
from erk_bench.studies.score_sets import Measuring, holds_images, score_sets

DEFAULT_METRICS = {"digits": "fd_digits"}  # by reference; of others FID


def score(options: ScoreOptions, words: Sequence[str]) -> int:
    """Run `erk-bench score`."""
    settings = [word for word in words if word.startswith("tracker")]
    bare = [word for word in words if word not in settings]
    images, reference = _places(options, bare)
    places = [place for place in images.split(",") if place]
    if options.name and len(options.name) != len(places):
        raise UserError(
            f"name has {len(options.name)} names for {len(places)} sets: {','.join(options.name)}; give one for each"
        )
    how = measuring(options, reference)
    names = options.name or ("",) * len(places)
    specs = [how.spec(place, name) for place, name in zip(places, names, strict=True)]
    real = how.spec(reference) if holds_images(reference) else None
    with tracked("score", specs[0].run_id, specs, settings) as tracker:
        records = score_sets(specs, tracker=tracker, real=real)
        for record in records or ():
            source = record.source
            tracker.record(record, RunStore.folder_of(source))
            show_record(record, record_path(source))
    return 0


def _places(options: ScoreOptions, words: Sequence[str]) -> tuple[str, str]:
    """The sets and the reference, each by its option or as a bare word."""
    left = list(words)
    images = options.images or (left.pop(0) if left else None)
    reference = options.reference or (left.pop(0) if left else None)
    if left:
        raise UserError(f"'{left[0]}' is one word too many; give images and reference once")
    for name, value in (("images", images), ("reference", reference)):
        if not value:
            raise UserError(f"{name} is missing; for example erk-bench score my_images/ real_images/")
    assert images and reference
    return images, reference


def measuring(options: ScoreOptions, reference: str) -> Measuring:
    """How the sets are read and measured, as the options say."""
    names = options.metrics or (DEFAULT_METRICS.get(reference, "fid"),)
    metrics = MetricsSpec(
        names=tuple(dict.fromkeys(METRICS[name].name for name in names)),
        reference=reference,
        real_features=options.real_features,
        num_groups=options.num_groups,
        kid_subsets=options.kid_subsets,
        kid_subset_size=options.kid_subset_size,
    )
    return Measuring(
        metrics=metrics,
        resolution=options.resolution,
        skip_unreadable=options.skip_unreadable,
        block_size=options.block_size,
        device=options.device,
        workers=options.workers,
        offline=options.offline,
        out=options.out,
    )
