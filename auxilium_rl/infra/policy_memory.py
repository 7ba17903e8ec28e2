"""What a policy remembers within an episode, kept by its caller."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from auxilium_rl.core.errors import InvalidRequest

__all__ = ["PolicyMemory", "size_of"]


def size_of(space: dict[str, Any]) -> int:
    """How many numbers an element of a described space has."""
    return int(np.prod(space["shape"], dtype=np.int64))


class PolicyMemory:
    """What a policy carries from one observation of an episode to the next: past frames, recurrent state.

    It travels in the caller's ``state``: a mark of the policy's shape, then float32 numbers.
    """

    def __init__(self, description: dict[str, Any], leaves: list[dict[str, Any]]) -> None:
        self._frames = int(description.get("frame_stack", 1))
        self._leaves = leaves
        self._stacked = sum(size_of(leaf) for leaf in leaves) if self._frames > 1 else 0
        state = description.get("state")
        self._shape = (state["shape"][0], 1, state["shape"][2]) if state else None
        self._recurrent = 0 if self._shape is None else int(np.prod(self._shape))
        self._mark = hashlib.sha256(json.dumps([self._frames, leaves, self._shape]).encode()).digest()[:8]
        self._length = len(self._mark) + 4 * (self._stacked + 2 * self._recurrent)

    @classmethod
    def of(cls, description: dict[str, Any], leaves: list[dict[str, Any]]) -> PolicyMemory | None:
        """None for a policy that remembers nothing."""
        remembers = description.get("frame_stack", 1) > 1 or "state" in description
        return cls(description, leaves) if remembers else None

    def feeds(self, values: npt.NDArray[np.float32], state: bytes) -> dict[str, npt.NDArray[np.float32]]:
        """The graph's inputs. Raises InvalidRequest."""
        numbers = self._numbers(state)
        feeds = {"observation": (self._pushed(numbers[: self._stacked], values) if self._stacked else values)[None]}
        if self._shape is not None:
            hidden, cell = np.split(numbers[self._stacked :], 2)
            feeds |= {"hidden": hidden.reshape(self._shape), "cell": cell.reshape(self._shape)}
        return feeds

    def token(self, observation: npt.NDArray[np.float32], rest: Sequence[npt.NDArray[np.float32]]) -> bytes:
        """The state for the caller to bring back."""
        frames = observation.tobytes() if self._stacked else b""
        return self._mark + frames + b"".join(array.tobytes() for array in rest)

    def _numbers(self, state: bytes) -> npt.NDArray[np.float32]:
        if not state:
            return np.zeros(self._stacked + 2 * self._recurrent, np.float32)
        if len(state) != self._length or not state.startswith(self._mark):
            raise InvalidRequest.of(
                "state", f"{len(state)} bytes given; the state of this policy's last answer is accepted, or nothing"
            )
        numbers = np.frombuffer(state, np.float32, offset=len(self._mark))
        if not np.isfinite(numbers).all():
            raise InvalidRequest.of("state", "it holds NaN or infinity; the state of the last answer is accepted")
        return numbers

    def _pushed(self, before: npt.NDArray[np.float32], values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The frames of before without the oldest, and this one."""
        parts, old, new = [], 0, 0
        for leaf in self._leaves:
            axis, count = leaf["stack_axis"], size_of(leaf)
            stacked = before[old : old + count].reshape(leaf["shape"])
            one = list(leaf["shape"])
            one[axis] //= self._frames
            frame = values[new : new + count // self._frames].reshape(one)
            kept = np.split(stacked, [one[axis]], axis=axis)[1]
            parts.append(np.concatenate([kept, frame], axis=axis).ravel())
            old, new = old + count, new + count // self._frames
        return np.concatenate(parts)
