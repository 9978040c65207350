"""The courier: jobs in order, failures told, nobody waiting for a job that hangs."""

from __future__ import annotations

import threading
import time

from erk_bench.reporting.trackers.courier import Courier


def test_jobs_are_done_in_order_in_another_thread() -> None:
    done: list[int] = []
    threads = set()
    courier = Courier(lambda error: False, patience=10)

    def job(number: int) -> None:
        time.sleep(0.01 if number == 0 else 0)
        threads.add(threading.current_thread())
        done.append(number)

    for number in range(50):
        courier.submit(lambda number=number: job(number))
    assert courier.close()
    assert done == list(range(50))
    assert threads.isdisjoint({threading.main_thread()})


def test_failed_job_is_tried_again_and_the_next_one_follows() -> None:
    tries: list[str] = []
    errors: list[str] = []

    def shaky() -> None:
        tries.append("shaky")
        if len(tries) == 1:
            raise OSError("lost")

    def failed(error: Exception) -> bool:
        errors.append(str(error))
        return True

    courier = Courier(failed, patience=10)
    courier.submit(shaky)
    courier.submit(lambda: tries.append("next"))
    assert courier.close()
    assert (tries, errors) == (["shaky", "shaky", "next"], ["lost"])


def test_second_failure_may_end_service() -> None:
    errors: list[str] = []
    done: list[int] = []

    def failed(error: Exception) -> bool:
        errors.append(str(error))
        return len(errors) < 2

    courier = Courier(failed, patience=10)
    courier.submit(lambda: {}["a"])  # type: ignore[func-returns-value]
    courier.submit(lambda: done.append(1))
    assert courier.close()
    assert len(errors) == 2
    assert done == []


def test_close_gives_up_on_a_job_that_hangs_but_not_on_many_slow_ones() -> None:
    slow = Courier(lambda error: False, patience=0.5)
    for _ in range(6):
        slow.submit(lambda: time.sleep(0.2))
    assert slow.close()  # 1.2 s together, none above the patience

    hung, release = Courier(lambda error: False, patience=0.3), threading.Event()
    late: list[int] = []
    hung.submit(lambda: release.wait(30) and None)
    hung.submit(lambda: late.append(1))
    start = time.monotonic()
    assert not hung.close()
    assert time.monotonic() - start < 5
    release.set()
    time.sleep(0.2)
    assert late == []  # given up for good
