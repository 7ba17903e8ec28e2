"""From steps of several episodes to the arrays of one chunk."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard
from gymnasium import spaces

from auxilium_rl.agent.episode import Rows
from auxilium_rl.agent.shelf import Part
from auxilium_rl.client.errors import InvalidArgument
from auxilium_rl.wire.chunks import ChunkCodec, Experience, Pieces, Span
from auxilium_rl.wire.rows import AnySpace, Obs
from auxilium_rl.wire.spaces import leaves_of
from generated.auxilium.v1 import experience_pb2 as pb

__all__ = ["Packer", "own_buffer", "steps_that_fit"]

_WORTH_IT, _LEAST = 0.7, 4096
"""Observations are compressed when a sample of at least so many bytes shrinks to less than this share."""
_SAMPLE = 1 << 16
_FEW = 4
"""Steps that lie beside one another, on average, for which it pays to send them as they lie."""
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
        self._action_shape = action.shape or ()
        self._codec = ChunkCodec(observation, action, mask_len)
        self._zstd = zstandard.ZstdCompressor(level=1)

    def pack(self, seq: int, taken: list[Rows]) -> pb.PushRequest:
        """The message of some steps."""
        parts = [part for rows in taken for part in rows.parts]
        spans, following = _spans(taken)
        pieces = self._looked_at(parts)
        log_probs = np.frombuffer(_joined([part.shelf.log_probs for part in parts], parts), np.float32)
        experience = Experience(
            count=len(log_probs),
            spans=spans,
            observations=pieces.observations[0],
            following=self._stacked(following),
            actions=self._actions([part.shelf.taken for part in parts], parts),
            rewards=np.frombuffer(_joined([part.shelf.sent for part in parts], parts), np.float32),
            log_probs=None if math.isnan(sum(log_probs.tolist())) else log_probs,
        )
        compressor = self._zstd if self._pays(pieces.observations[0]) else None
        request = pb.PushRequest()  # made around the chunk: to put one into another copies it
        self._codec.encode(
            seq, experience, pieces=pieces, compressor=compressor, buffer=self._buffer, into=request.chunk
        )
        return request

    def _actions(self, columns: list[Any], parts: list[Part]) -> npt.NDArray[Any]:
        return np.frombuffer(_joined(columns, parts), self._action_dtype).reshape((-1, *self._action_shape))

    def _looked_at(self, parts: list[Part]) -> Pieces:
        """What was seen, as it lies, unless that is too far apart."""
        looks = [part.shelf.looked_at(part.begin, part.end) for part in parts]
        pieces: list[Obs] = [rows for rows, _ in looks]
        masks = [part for _, part in looks]
        count = sum(map(len, masks))
        if _FEW * len(parts) > count + _FEW:
            pieces = [self._one_after_another(pieces, count)]
            masks = [np.frombuffer(b"".join([part.data for part in masks]), bool).reshape(count, self._mask_len)]
        return Pieces(pieces, masks if any(part.shelf.masked for part in parts) else None)

    def _one_after_another(self, pieces: list[Any], count: int) -> Obs:
        if isinstance(self._space, spaces.Dict):
            leaves = self._space.spaces.items()
            return {key: _whole([piece[key] for piece in pieces], leaf, count) for key, leaf in leaves}
        return _whole(pieces, self._space, count)

    def _stacked(self, rows: list[Any]) -> Obs:
        if isinstance(self._space, spaces.Dict):
            return {key: _stack([row[key] for row in rows], leaf) for key, leaf in self._space.spaces.items()}
        return _stack(rows, self._space)

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
    return np.array(rows, space.dtype).reshape((len(rows), *(space.shape or ())))


def _whole(pieces: list[npt.NDArray[Any]], space: AnySpace, count: int) -> npt.NDArray[Any]:
    # NumPy lets go of the interpreter for each piece, and whoever acts would wait for it as often.
    joined = b"".join([piece.data for piece in pieces])
    return np.frombuffer(joined, space.dtype).reshape((count, *(space.shape or ())))


def _joined(columns: list[Any], parts: list[Part]) -> bytes:
    """What the columns of the parts' shelves have for them."""
    return b"".join([memoryview(column)[one.begin : one.end] for column, one in zip(columns, parts, strict=True)])


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
        first = 0
        for version, parts, then in _by_version(rows.parts):
            steps = sum(part.steps for part in parts)
            after = rows.following if then is None else then.shelf.seen(then.begin)
            ends = then is None and rows.terminated, then is None and rows.truncated
            spans.append(Span(rows.episode, rows.start + first, steps, version, *ends, after is not None))
            if after is not None:
                following.append(after)
            first += steps
    return spans, following


def _by_version(parts: list[Part]) -> Iterator[tuple[int, list[Part], Part | None]]:
    """The versions that acted, one after another, the steps of each, and those that came next."""
    groups = [(version, list(group)) for version, group in groupby(parts, lambda part: part.version)]
    for number, (version, group) in enumerate(groups):
        yield version, group, groups[number + 1][1][0] if number + 1 < len(groups) else None
