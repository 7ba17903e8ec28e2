"""What a policy remembers within an episode, kept by its caller."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from auxilium_rl.inference.refused import Refused

__all__ = ["PolicyMemory", "size_of"]

Floats = npt.NDArray[np.float32]


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

    @property
    def recurrent(self) -> bool:
        """Whether the graph takes and gives a state of its own."""
        return self._shape is not None

    def feeds(self, rows: Floats, states: Sequence[bytes]) -> dict[str, Floats]:
        """The graph's inputs for ``(n, size)`` values and one state for each. Raises Refused."""
        numbers = np.stack([self._numbers(state) for state in states])
        feeds = {"observation": self._pushed(numbers[:, : self._stacked], rows) if self._stacked else rows}
        if self._shape is not None:
            layers, _, size = self._shape
            kept = numbers[:, self._stacked :].reshape(len(rows), 2, layers, size)
            feeds |= {
                name: np.ascontiguousarray(kept[:, part].transpose(1, 0, 2))
                for part, name in enumerate(("hidden", "cell"))
            }
        return feeds

    def tokens(self, observations: Floats, rest: Sequence[Floats]) -> list[bytes]:
        """The states for the caller to bring back; ``rest`` is the graph's new state, ``(layers, n, size)`` each."""
        frames = [row.tobytes() if self._stacked else b"" for row in observations]
        return [
            self._mark + frame + b"".join(np.ascontiguousarray(part[:, row]).tobytes() for part in rest)
            for row, frame in enumerate(frames)
        ]

    def _numbers(self, state: bytes) -> Floats:
        if not state:
            return np.zeros(self._stacked + 2 * self._recurrent, np.float32)
        if len(state) != self._length or not state.startswith(self._mark):
            raise Refused(
                "state", f"{len(state)} bytes given; the state of this policy's last answer is accepted, or nothing"
            )
        numbers = np.frombuffer(state, np.float32, offset=len(self._mark))
        if not np.isfinite(numbers).all():
            raise Refused("state", "it holds NaN or infinity; the state of the last answer is accepted")
        return numbers

    def _pushed(self, before: Floats, rows: Floats) -> Floats:
        """The frames of before without the oldest, and these."""
        count, parts, old, new = len(rows), [], 0, 0
        for leaf in self._leaves:
            axis, size = leaf["stack_axis"], size_of(leaf)
            stacked = before[:, old : old + size].reshape(count, *leaf["shape"])
            one = list(leaf["shape"])
            one[axis] //= self._frames
            frame = rows[:, new : new + size // self._frames].reshape(count, *one)
            along = axis % len(one) + 1
            kept = np.split(stacked, [one[axis]], axis=along)[1]
            parts.append(np.concatenate([kept, frame], axis=along).reshape(count, -1))
            old, new = old + size, new + size // self._frames
        return np.concatenate(parts, axis=1)
