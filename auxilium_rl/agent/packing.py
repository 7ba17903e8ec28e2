"""From steps of several episodes to the arrays of one chunk."""

from __future__ import annotations

import math
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard
from gymnasium import spaces

from auxilium_rl.agent.episode import Rows, Step
from auxilium_rl.agent.shelf import gathered
from auxilium_rl.client.errors import InvalidArgument
from auxilium_rl.wire.chunks import ChunkCodec, Experience, Pieces, Span
from auxilium_rl.wire.rows import AnySpace, Obs
from auxilium_rl.wire.spaces import leaves_of
from generated.auxilium.v1 import experience_pb2 as pb

__all__ = ["Packer", "own_buffer", "steps_that_fit"]

_WORTH_IT, _LEAST = 0.7, 4096
"""Observations are compressed when a sample of at least so many bytes shrinks to less than this share."""
_SAMPLE = 1 << 16
_SPAN = 128
"""Bytes of a span, and of everything else that comes with a chunk, at most."""


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
        self._zstd = zstandard.ZstdCompressor(level=1)

    def pack(self, seq: int, taken: list[Rows]) -> pb.PushRequest:
        """The message of some steps."""
        spans, following = _spans(taken)
        steps = [step for rows in taken for step in rows.steps]
        log_probs = [step.log_prob for step in steps]
        pieces = self._looked_at(steps)
        experience = Experience(
            count=len(steps),
            spans=spans,
            observations=pieces.observations[0],
            following=self._stacked(following),
            actions=np.array([step.taken for step in steps], self._action_dtype),
            rewards=np.array([step.sent or 0.0 for step in steps], np.float32),
            log_probs=None if math.isnan(sum(log_probs)) else np.array(log_probs, np.float32),
        )
        compressor = self._zstd if self._pays(pieces.observations[0]) else None
        request = pb.PushRequest()  # made around the chunk: to put one into another copies it
        self._codec.encode(
            seq, experience, pieces=pieces, compressor=compressor, buffer=self._buffer, into=request.chunk
        )
        return request

    def _stacked(self, rows: list[Any]) -> Obs:
        if isinstance(self._space, spaces.Dict):
            return {key: _stack([row[key] for row in rows], leaf) for key, leaf in self._space.spaces.items()}
        return _stack(rows, self._space)

    def _looked_at(self, steps: list[Step]) -> Pieces:
        pieces = gathered(steps)
        if not any(step.masked for step in steps):
            return Pieces(pieces.observations if pieces else [self._stacked([step.seen for step in steps])], None)
        if pieces:
            return pieces
        masks = b"".join([step.shelf.masks[step.place - step.shelf.first] for step in steps])
        return Pieces(
            [self._stacked([step.seen for step in steps])],
            [np.frombuffer(masks, bool).reshape(len(steps), self._mask_len)],
        )

    def _pays(self, rows: Obs) -> bool:
        if self._compress is None:
            leaves = list(rows.values()) if isinstance(rows, dict) else [rows]
            sample = max(leaves, key=lambda leaf: leaf.nbytes).tobytes()[:_SAMPLE]
            # Decided once: what an agent sees looks alike from chunk to chunk.
            if len(sample) >= _LEAST:
                self._compress = len(self._zstd.compress(sample)) < _WORTH_IT * len(sample)
            return bool(self._compress)
        return self._compress


def _stack(rows: list[Any], space: AnySpace) -> npt.NDArray[Any]:
    shape, dtype = (len(rows), *(space.shape or ())), np.dtype(space.dtype)
    if rows and space.shape and rows[0].dtype == dtype:  # all of them come from one ``Eye``
        # NumPy lets go of the interpreter at each of them, and whoever acts would wait for it as often.
        return np.frombuffer(b"".join(rows), dtype).reshape(shape)
    return np.array(rows, dtype).reshape(shape)


def steps_that_fit(observation: AnySpace, action: AnySpace, mask_len: int, accepted: int) -> int:
    """How many steps a server takes at once that accepts messages of so many bytes. Raises InvalidArgument: none."""
    seen, taken = leaves_of(observation), leaves_of(action, action=True)
    # A step may be a span of its own, with what followed it.
    step = sum(leaf.row_bytes for leaf in (*seen, *seen, *taken)) + mask_len + _SPAN
    if step > accepted:
        raise InvalidArgument.of(
            "observation_space", f"a step takes up to {step} bytes; the server accepts {accepted} (GRPC_MAX_MESSAGE_MB)"
        )
    return accepted // step


def own_buffer(name: str) -> str:
    """The name of a replay buffer as messages have it: empty for the run's own."""
    return "" if name == "online" else name


def _spans(taken: list[Rows]) -> tuple[list[Span], list[Any]]:
    """A span for each version of each episode, and what was seen after each."""
    spans: list[Span] = []
    following: list[Any] = []
    for rows in taken:
        first, count = 0, len(rows.steps)
        for version, steps in _by_version(rows.steps):
            last = first + steps
            whole = last == count
            after = rows.following if whole else rows.steps[last].seen
            ends = whole and rows.terminated, whole and rows.truncated
            spans.append(Span(rows.episode, rows.start + first, steps, version, *ends, after is not None))
            if after is not None:
                following.append(after)
            first = last
    return spans, following


def _by_version(steps: list[Step]) -> list[tuple[int, int]]:
    """The versions that acted, one after another, and for how many steps each."""
    versions = [step.version for step in steps]
    if versions.count(versions[0]) == len(versions):  # most often; to group them takes ten times as long
        return [(versions[0], len(versions))]
    return [(version, sum(1 for _ in group)) for version, group in groupby(versions)]
