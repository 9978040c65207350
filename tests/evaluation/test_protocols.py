"""Protocols of the field: rows that hold together, their page, and that their figures are not mixed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import erk_bench
from erk_bench.base.errors import UserError
from erk_bench.commands.compose import run_spec
from erk_bench.commands.score import ScoreOptions
from erk_bench.evaluation.metrics import METRICS, detectors_of
from erk_bench.evaluation.protocols import PROTOCOLS, protocols_table
from erk_bench.studies.score_sets import measuring
from erk_bench.studies.verdicts import check_comparable
from tests.isolation import ROOT
from tests.studies.test_score_sets import save_digits


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_metric_of_a_protocol_is_known(name: str) -> None:
    spec = measuring("digits", protocol=name).metrics
    assert spec.protocol == name and list(spec.names) == [
        METRICS[key].name for key in PROTOCOLS[name].metrics
    ]
    assert detectors_of(spec.names)
    for field, value in PROTOCOLS[name].settings.items():
        assert getattr(measuring("digits", protocol=name, **{field: 7}).metrics, field) == value


def test_the_page_says_what_the_rows_say() -> None:
    assert protocols_table() in (ROOT / "docs" / "protocols.md").read_text()


def test_the_command_offers_each() -> None:
    (field,) = [field for field in dataclasses.fields(ScoreOptions) if field.name == "protocol"]
    assert field.metadata["kind"].known == tuple(PROTOCOLS)


def test_metrics_of_a_protocol_may_be_chosen_and_no_others() -> None:
    assert measuring("digits", ["sfid"], protocol="adm").metrics.names == ("sfid",)
    with pytest.raises(UserError, match="unknown metric of protocol=adm 'kid'.*Known: fid, sfid"):
        measuring("digits", ["kid"], protocol="adm")
    with pytest.raises(UserError, match="unknown protocol 'admm'; did you mean 'adm'"):
        measuring("digits", protocol="admm")


def test_a_run_is_measured_by_a_protocol() -> None:
    words = ["track=imagenet512", "metrics.protocol=fidelity", "metrics.kid_subset_size=7"]
    spec = run_spec([*words, "metrics.names=[kid,fd@inception]"], fetch=False).metrics
    assert (spec.protocol, spec.names, spec.kid_subset_size) == ("fidelity", ("kid", "fid"), 1000)
    assert run_spec(words[:1], fetch=False).metrics.protocol == ""
    with pytest.raises(UserError, match="unknown metric of protocol=fidelity 'fd_dinov2'. Known: fid, kid"):
        run_spec(words, fetch=False)
    with pytest.raises(UserError, match="unknown protocol 'adn'; did you mean 'adm'"):
        run_spec(["metrics.protocol=adn"])


def test_figures_of_two_protocols_stand_in_no_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the metric has the same name."""
    digits = save_digits(tmp_path / "mine", 0, 40)
    row = dataclasses.replace(PROTOCOLS["edm2"], metrics=("fd_digits",))
    monkeypatch.setitem(PROTOCOLS, "edm2", row)
    plain, other = (
        erk_bench.score(digits, "digits", ["fd_digits"], num_groups=10, out="runs", protocol=protocol)
        for protocol in ("", "edm2")
    )
    assert (plain.spec["metrics"]["protocol"], other.spec["metrics"]["protocol"]) == ("", "edm2")
    assert plain.metrics == other.metrics
    with pytest.raises(UserError, match="metrics by protocol edm2.*our own"):
        check_comparable("fd_digits", [plain, other])
