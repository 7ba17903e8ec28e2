"""The pool of threads that gRPC's server hands calls to."""

from __future__ import annotations

import logging
import threading

import pytest

from auxilium_rl.wire.call_pool import CallPool


def test_calls_run_side_by_side_up_to_the_size() -> None:
    pool = CallPool(2, "test")
    meet = threading.Barrier(3)
    pool.submit(meet.wait, 10)
    pool.submit(meet.wait, 10)
    meet.wait(10)
    pool.shutdown()


def test_more_calls_than_threads_wait_in_order() -> None:
    pool = CallPool(1, "test")
    go, ended = threading.Event(), threading.Event()
    seen: list[int] = []
    pool.submit(go.wait, 10)
    for number in range(5):
        pool.submit(seen.append, number)
    pool.submit(ended.set)
    assert seen == []
    go.set()
    assert ended.wait(10)
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_callback_is_called_once_whenever_it_comes(when: str) -> None:
    pool = CallPool(1, "test")
    go, called = threading.Event(), threading.Event()
    calls: list[object] = []
    call = pool.submit(go.wait, 10)
    if when == "after":
        go.set()
        behind = threading.Event()
        pool.submit(behind.set)
        assert behind.wait(10)
    call.add_done_callback(lambda it: (calls.append(it), called.set()))
    go.set()
    assert called.wait(10)
    assert calls == [call]


@pytest.mark.parametrize("fault", [ValueError("broken"), SystemExit(3)])
def test_a_fault_is_logged_and_ends_no_thread(fault: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    pool = CallPool(1, "test")
    ended = threading.Event()

    def fail() -> None:
        raise fault

    with caplog.at_level(logging.ERROR):
        pool.submit(fail)
        pool.submit(ended.set)
        assert ended.wait(10)
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [fault]


def test_shutdown_finishes_what_was_submitted_and_ends_the_threads() -> None:
    pool = CallPool(3, "ending")
    ended = threading.Event()
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("ending_")]
    pool.submit(ended.set)
    pool.shutdown()
    for thread in threads:
        thread.join(10)
    assert len(threads) == 3
    assert ended.is_set()
    assert not any(thread.is_alive() for thread in threads)
