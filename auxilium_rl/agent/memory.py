"""Memory that is used again: fresh pages come from the system one by one, and whoever acts would wait for each."""

from __future__ import annotations

import math
import weakref
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Memory"]

_KEPT = 32 << 20
"""Bytes of one size that are kept while nobody uses them."""


class Memory:
    """Gives arrays; what they took is given again when the last array on it is gone. Any number of threads may ask."""

    def __init__(self) -> None:
        self._free: dict[int, deque[npt.NDArray[np.uint8]]] = {}

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike | None) -> npt.NDArray[Any]:
        """An array with whatever was there before."""
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        if not size:
            return np.empty(shape, kind)
        free = self._free.get(size)
        if free is None:
            free = self._free.setdefault(size, deque(maxlen=max(_KEPT // size, 1)))
        try:
            block = free.pop()  # what was used last may be in the processor's cache still
        except IndexError:
            block = np.empty(size, np.uint8)
        # Views of an array keep its owner alive and not the array itself; of a buffer that is none, the first array.
        first = np.frombuffer(block.data, kind)
        weakref.finalize(first, free.append, block).atexit = False
        return first.reshape(shape)
