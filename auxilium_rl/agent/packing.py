"""From steps of several episodes to the arrays of one chunk."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard
from gymnasium import spaces

from auxilium_rl.agent.episode import Rows
from auxilium_rl.wire.chunks import ChunkCodec, Experience, Span
from auxilium_rl.wire.rows import AnySpace, Obs
from generated.auxilium.v1 import experience_pb2 as pb

__all__ = ["Packer", "own_buffer"]

_WORTH_IT, _LEAST = 0.7, 4096
"""Observations are compressed when a sample of at least so many bytes shrinks to less than this share."""
_SAMPLE = 1 << 16


class Packer:
    """Of one pair of spaces, whose elements count from 0.

    Args:
        compress: None: where it pays.
        buffer: of the run's, as ``own_buffer`` has it.
    """

    def __init__(
        self, observation: AnySpace, action: AnySpace, mask_len: int, compress: bool | None, buffer: str = ""
    ) -> None:
        self._space, self._mask_len, self._compress, self._buffer = observation, mask_len, compress, buffer
        self._action_dtype = np.dtype(np.float32 if isinstance(action, spaces.Box) else np.int64)
        self._codec = ChunkCodec(observation, action, mask_len)

    def pack(self, seq: int, taken: list[Rows]) -> pb.Chunk:
        """The message of some steps."""
        spans, following = _spans(taken)
        log_probs = np.array([value for rows in taken for value in rows.log_probs], np.float32)
        observations = self._stacked([row for rows in taken for row in rows.observations])
        experience = Experience(
            count=len(log_probs),
            spans=spans,
            observations=observations,
            following=self._stacked(following),
            actions=np.array([action for rows in taken for action in rows.actions], self._action_dtype),
            rewards=np.array([reward for rows in taken for reward in rows.rewards], np.float32),
            log_probs=None if math.isnan(log_probs.sum()) else log_probs,
            masks=self._masks([mask for rows in taken for mask in rows.masks]),
        )
        return self._codec.encode(seq, experience, zstd=self._pays(observations), buffer=self._buffer)

    def _stacked(self, rows: list[Any]) -> Obs:
        if isinstance(self._space, spaces.Dict):
            return {key: _stack([row[key] for row in rows], leaf) for key, leaf in self._space.spaces.items()}
        return _stack(rows, self._space)

    def _masks(self, masks: list[Any]) -> Any:
        if not self._mask_len or all(mask is None for mask in masks):
            return None
        everything = np.ones(self._mask_len, bool)
        rows = np.concatenate([everything if mask is None else mask for mask in masks])
        return rows.reshape(len(masks), self._mask_len)

    def _pays(self, rows: Obs) -> bool:
        if self._compress is None:
            leaves = list(rows.values()) if isinstance(rows, dict) else [rows]
            sample = max(leaves, key=lambda leaf: leaf.nbytes).tobytes()[:_SAMPLE]
            # Decided once: what an agent sees looks alike from chunk to chunk.
            if len(sample) >= _LEAST:
                self._compress = len(zstandard.ZstdCompressor(level=1).compress(sample)) < _WORTH_IT * len(sample)
            return bool(self._compress)
        return self._compress


def own_buffer(name: str) -> str:
    """The name of a replay buffer as messages have it: empty for the run's own."""
    return "" if name == "online" else name


def _stack(rows: list[Any], space: AnySpace) -> npt.NDArray[Any]:
    # Of arrays NumPy makes one four times as fast by putting them one after another.
    flat = np.concatenate(rows) if rows and space.shape else np.array(rows)
    return flat.astype(space.dtype, copy=False).reshape((len(rows), *(space.shape or ())))


def _spans(taken: list[Rows]) -> tuple[list[Span], list[Any]]:
    """A span for each version of each episode, and what was seen after each."""
    spans: list[Span] = []
    following: list[Any] = []
    for rows in taken:
        count, first = len(rows.versions), 0
        while first < count:
            version, last = rows.versions[first], first + 1
            while last < count and rows.versions[last] == version:
                last += 1
            after = rows.following if last == count else rows.observations[last]
            whole = last == count
            spans.append(
                Span(
                    rows.episode,
                    rows.start + first,
                    last - first,
                    version,
                    whole and rows.terminated,
                    whole and rows.truncated,
                    after is not None,
                )
            )
            if after is not None:
                following.append(after)
            first = last
    return spans, following
