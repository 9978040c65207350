"""The simulation of many workers: closed forms where there are any, and what it says of the rules."""

from __future__ import annotations

import pytest

from erk_bench import cli
from erk_bench.studies.simulate import RULES, Conditions, shortest, simulate

EVEN = Conditions(speed_spread=0.0, slow_share=0.0, mean_uptime=1e12)
TAKEN_OVER, DEALT, FIXED, TASKS, LEASES = RULES


@pytest.mark.parametrize("rule", RULES)
def test_one_worker_takes_the_sum(rule: str) -> None:
    found = simulate([[0.5] * 10, [0.25] * 4], 1, rule, EVEN)
    assert found.makespan == pytest.approx(6.0)
    assert found.idle == pytest.approx(0.0) and found.lost == 0.0
    assert shortest([[0.5] * 10, [0.25] * 4], 1, EVEN) == pytest.approx(6.0)


@pytest.mark.parametrize("rule", RULES)
def test_even_workers_that_divide_the_blocks_are_never_idle(rule: str) -> None:
    found = simulate([[1.0] * 16] * 4, 8, rule, EVEN)
    assert found.makespan == pytest.approx(8.0) and found.idle == pytest.approx(0.0)


def test_more_workers_than_blocks_of_a_row() -> None:
    """500 blocks a row, 1,000 workers: by the fixed rule half of them never have any."""
    rows = [[1.0] * 500] * 4
    assert simulate(rows, 1000, FIXED, EVEN).makespan == pytest.approx(4.0)
    assert simulate(rows, 1000, FIXED, EVEN).idle == pytest.approx(0.5)
    for rule in (TAKEN_OVER, DEALT, LEASES):
        assert simulate(rows, 1000, rule, EVEN).makespan == pytest.approx(2.0)
    # Each row is one node's: 4 of 125 nodes work.
    assert simulate(rows, 1000, TASKS, EVEN).makespan == pytest.approx(63.0)


def test_slow_workers_hold_up_those_who_cannot_help() -> None:
    slow = EVEN._replace(slow_share=0.25)
    rows = [[1.0] * 256]
    assert simulate(rows, 16, DEALT, slow).makespan == pytest.approx(32.0)
    for rule in (TAKEN_OVER, LEASES):
        found = simulate(rows, 16, rule, slow)
        assert found.makespan <= shortest(rows, 16, slow) + 2
        assert found.makespan < 0.7 * 32


@pytest.mark.parametrize("rule", RULES)
def test_preemption_costs_and_everything_ends(rule: str) -> None:
    hard = EVEN._replace(mean_uptime=5.0, pause=0.5)
    rows = [[0.5] * 64] * 3
    found = simulate(rows, 16, rule, hard)
    assert found.makespan > shortest(rows, 16, hard) + 0.3
    assert found.lost > 0 and 0 < found.idle < 1
    assert simulate(rows, 16, rule, hard) == found
    assert simulate(rows, 16, rule, hard, seed=1) != found


def test_one_node_pauses_by_hand() -> None:
    """Blocks of an hour on one worker whose node stops at known times: what was begun is lost."""
    found = simulate([[1.0] * 3], 1, DEALT, EVEN._replace(mean_uptime=2.0, pause=0.25), seed=3)
    from erk_bench.studies.simulate import _Fleet

    fleet = _Fleet(1, EVEN._replace(mean_uptime=2.0, pause=0.25), 3)
    time = lost = done = 0.0
    while done < 3:
        stop = fleet.stop_after(0, time)
        if time + 1 <= stop:
            time, done = time + 1, done + 1
        else:
            lost, time = lost + stop - time, stop + 0.25
    assert found.makespan == pytest.approx(time) and found.lost == pytest.approx(lost / time)


def test_plan_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "seeds=0-49999", "throughput=150", "block_size=100", "offline=true"]
    assert cli.main([*words, "--simulate", "1,64"]) == 0
    printed = capsys.readouterr().out
    assert "simulated: 500 blocks of 1 runs" in printed
    assert all(rule in printed for rule in RULES) and "assumed:" in printed


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["simulate=many"], "simulate is 'many'"),
        (["simulate=0"], "simulate is '0'"),
        (["simulate=8,1000000"], "1 to 100,000"),
    ],
)
def test_numbers_of_workers_that_make_no_sense(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", *words]) != 0
    assert told in capsys.readouterr().err
