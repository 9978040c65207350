"""ADM's Inception Score, whole and without each group."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from erk_bench.base.errors import UserError
from erk_bench.evaluation import needs
from erk_bench.evaluation.class_scores import adm_inception_score, scores_without_groups
from erk_bench.evaluation.measured import Extracted, split_groups
from erk_bench.spec import MetricsSpec
from tests.conftest import golden, golden_facts


def spec_of(num_groups: int) -> MetricsSpec:
    return MetricsSpec(names=("is_adm@digits",), reference="digits", num_groups=num_groups)


def written_out(logits: Tensor, split_size: int) -> float:
    """Mean over splits, in order, of exp(mean KL): as its definition has it."""
    p = logits.double().softmax(1).numpy()
    parts = [p[start : start + split_size] for start in range(0, len(p), split_size)]
    return float(np.mean([np.exp((q * (np.log(q) - np.log(q.mean(0)))).sum(1).mean()) for q in parts]))


def test_value_equals_the_adm_evaluator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits without bias: pool features times the softmax weights. In one split, and in splits of 50."""
    facts = golden_facts("adm_evaluator")["end_to_end"]["reference_with_statistics"]
    tensors = golden("adm_evaluator")
    features = tensors["samples.pool"]
    images = Extracted(features, features @ tensors["net.W"])
    found = adm_inception_score(images, None, split_groups(150, 10), spec_of(10))["inception_score"]
    assert found.value == pytest.approx(facts["inception_score"], rel=1e-5)
    monkeypatch.setattr(needs, "ADM_SPLIT", 50)
    found = adm_inception_score(images, None, split_groups(150, 10), spec_of(10))["inception_score"]
    assert found.value == pytest.approx(facts["inception_score_split50"], rel=1e-5)


@pytest.mark.parametrize("count", [120, 130])
def test_splits_are_in_order_and_the_last_may_be_shorter(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(needs, "ADM_SPLIT", 40)
    logits = 2 * torch.randn(count, 10, generator=torch.Generator().manual_seed(2))
    groups = split_groups(count, 20)
    found = adm_inception_score(Extracted(logits, logits), None, groups, spec_of(20))["inception_score"]
    assert found.value == pytest.approx(written_out(logits, 40), rel=1e-12)
    for group in range(20):
        p = logits.double().softmax(1)
        scores = []
        for split in range(-(-count // 40)):
            q = p[(torch.arange(count) // 40 == split) & (groups != group)]
            scores.append(float((q * (q.log() - q.mean(0).log())).sum(1).mean().exp()))
        assert found.replicates[group] == pytest.approx(np.mean(scores), rel=1e-12)


def test_a_class_that_no_image_has_counts_nothing() -> None:
    logits = torch.randn(20, 4)
    logits[:, 3] = -1000
    groups, one = split_groups(20, 4), torch.zeros(20, dtype=torch.int64)
    found, replicates = scores_without_groups(logits, one, groups, 4)
    assert found == pytest.approx(scores_without_groups(logits[:, :3], one, groups, 4)[0], rel=1e-12)
    assert np.isfinite(replicates).all()


def test_a_last_split_within_one_jackknife_group_is_refused_with_advice() -> None:
    logits = torch.randn(5050, 3)
    told = (
        "of 5050 images one of the 2 splits of the Inception Score has none left without one of the 50 "
        "jackknife groups; use more seeds, at least 5103, or metrics.num_groups=102"
    )
    with pytest.raises(UserError, match=re.escape(told)):
        adm_inception_score(Extracted(logits, logits), None, split_groups(5050, 50), spec_of(50))
