"""`erk-bench score`: sets of images measured, and compared where there are several."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from erk_bench.base.errors import UserError
from erk_bench.commands.compose import tracker_spec
from erk_bench.commands.run import show_record
from erk_bench.commands.score import ScoreOptions
from erk_bench.commands.tracking import tracked
from erk_bench.runs.records import Record
from erk_bench.runs.score import record_path
from erk_bench.runs.store import RunStore
from erk_bench.spec import MetricsSpec, SetSpec
from erk_bench.studies.score_sets import measuring, score_sets, set_specs
from erk_bench.studies.set_pictures import draw_pictures


def score(options: ScoreOptions, words: Sequence[str]) -> int:
    """Run `erk-bench score`."""
    try:
        return _score(options, words)
    except UserError as error:
        raise _in_options(error) from error


def _in_options(error: UserError) -> UserError:
    """The error with the names that the options of this command have: a run calls them metrics.NAME."""
    text = str(error).replace("metrics.names", "metrics")
    names = "|".join(field.name for field in dataclasses.fields(MetricsSpec))
    error.args = (re.sub(rf"\bmetrics\.({names})\b", r"\1", text), *error.args[1:])
    return error


def _score(options: ScoreOptions, words: Sequence[str]) -> int:
    settings = [word for word in words if word.startswith(("tracker=", "tracker."))]
    bare = [word for word in words if word not in settings]
    images, reference = _places(options, bare)
    places = [place for place in images.split(",") if place]
    if options.name and len(options.name) != len(places):
        raise UserError(
            f"name has {len(options.name)} names for {len(places)} sets: {','.join(options.name)}; give one "
            "for each"
        )
    given = {item.name: getattr(options, item.name) for item in dataclasses.fields(options)}
    for name in ("images", "reference", "metrics", "name", "pictures"):
        del given[name]
    given["protocol"] = options.protocol or ""
    how = measuring(reference, options.metrics, **given)
    tracker_spec(settings)  # a typo is told before anything is read
    specs, real = set_specs(places, how, options.name)
    with tracked("score", specs[0].run_id, specs, settings) as tracker:
        records = score_sets(specs, tracker=tracker, real=real)
        for record in records or ():
            source = record.source
            tracker.record(record, RunStore.folder_of(source))
            show_record(record, record_path(source))
        if options.pictures and records:
            for spec in specs:
                made = draw_pictures(_scored_as(spec, records), real, Path(options.pictures).expanduser())
                print(f"pictures: {', '.join(map(str, made))}")
    return 0


def _scored_as(spec: SetSpec, records: Sequence[Record]) -> SetSpec:
    """The spec as it was measured: a reference that is a set is a file by now."""
    metrics = next(record.source.metrics for record in records if record.run_id == spec.run_id)
    return dataclasses.replace(spec, metrics=metrics)


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
