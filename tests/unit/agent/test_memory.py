"""What an array took is given again, and never while somebody can look at it."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from auxilium_rl.agent.memory import Memory


def address(array: np.ndarray[Any, Any]) -> int:
    return int(array.ctypes.data)


@pytest.mark.parametrize("keep", [lambda one: one, lambda one: one[1:2], lambda one: one.reshape(-1)[::2].view("i4")])
def test_it_comes_back_when_the_last_view_is_gone(keep: Any) -> None:
    memory = Memory()
    first = memory.array((4, 8), np.float32)
    where, kept = address(first), keep(first)
    del first
    gc.collect()
    other = memory.array((4, 8), np.float32)
    assert not np.shares_memory(other, kept)
    del kept
    gc.collect()
    assert address(memory.array((4, 8), np.float32)) == where
    assert memory.array((16, 8), bool).nbytes == other.nbytes  # another kind of the same size is as good


def test_not_all_that_was_ever_needed_is_kept() -> None:
    memory = Memory()
    many = [memory.array((1 << 20,), np.uint8) for _ in range(40)]
    del many
    gc.collect()
    assert sum(map(len, memory._free.values())) == 32


def test_nothing_takes_no_memory() -> None:
    assert Memory().array((3, 0), bool).shape == (3, 0)
