"""What a comparison of two records needs besides their values, so that a page can make it in a browser."""

from __future__ import annotations

from typing import Any

from erk_bench.base.errors import UserError
from erk_bench.evaluation.metrics import METRICS, singles
from erk_bench.runs.records import Record
from erk_bench.studies.compare import SAME_SIZE, detectors_of_metric, of_any_size, protocol_of
from erk_bench.studies.verdicts import LEVEL, RESOLVED, SEEDS_ONLY

RULES = {"resolved": RESOLVED, "level": LEVEL, "sameSize": SAME_SIZE, "seedsOnly": SEEDS_ONLY}


def facts_of(record: Record) -> dict[str, str]:
    """What must be alike in two records that are compared, and what pairs their images."""
    kind, text = record.pairing
    facts = {"pairing.kind": kind, "pairing.text": text, "protocol": protocol_of(record)}
    for name in record.metrics:
        try:
            facts[f"detector.{name}"] = detectors_of_metric(record, name)
        except UserError:  # of a user's own, whose file is not here: it is not compared
            continue
    return facts


def metric_facts(name: str) -> dict[str, Any]:
    """Title of a metric, and how its values are compared; lower: None where nobody knows what is better."""
    try:
        metric = METRICS[name]
        needs = [part.family.needs for part in singles([name])]
        return {
            "title": metric.title,
            "lower": metric.lower,
            "anySize": of_any_size(name),
            "features": "features" in needs,
        }
    except UserError:
        return {"title": name, "lower": None, "anySize": False, "features": False}
