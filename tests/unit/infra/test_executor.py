"""What the executor holds of a worker."""

from __future__ import annotations

import socket

import pytest

from auxilium_rl.infra.executor import _Worker


def test_hanging_up_on_a_worker_that_left_a_command_unread() -> None:
    ours, theirs = socket.socketpair()
    worker = _Worker("run", 1, ours.makefile("wb"))
    ours.close()
    theirs.close()
    worker.control.write(b"stop\n")
    with pytest.raises(BrokenPipeError):
        worker.control.flush()
    worker.hang_up()
    assert worker.control.closed
