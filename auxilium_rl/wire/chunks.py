"""Chunks of experience: between arrays and the messages of ``auxilium.v1.ExperienceService``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from auxilium_rl.wire.rows import AnySpace, Obs, all_finite
from auxilium_rl.wire.spaces import Codec, InvalidSlab, Leaf, counted_from_zero
from generated.auxilium.v1 import experience_pb2 as pb

__all__ = ["MAX_STEPS", "ChunkCodec", "Experience", "InvalidChunk", "Span"]

Floats = npt.NDArray[np.float32]
MAX_STEPS = 1 << 20
"""Of one chunk."""
_MAX_VERSION = 2**31 - 1


class InvalidChunk(ValueError):
    """A chunk that nothing can be learned from; ``field`` names what of it."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason


@dataclass(frozen=True, slots=True)
class Span:
    """Steps of one episode, one after another, that one version of the policy acted in.

    Attributes:
        start: number of the first within the episode.
        count: at least 1.
        has_following: the observation after the last step came too.
    """

    episode: int
    start: int
    count: int
    version: int
    terminated: bool
    truncated: bool
    has_following: bool


@dataclass(frozen=True)
class Experience:
    """Steps of one agent. Whole numbers count from 0.

    Attributes:
        observations: ``(count, *shape)``: what was acted on.
        following: ``(spans with has_following, *shape)``.
        actions: ``(count, *shape)``.
        rewards: ``(count,)``.
        log_probs, values: ``(count,)``; None: unknown.
        masks: ``(count, mask_len)``; None: everything was legal.
    """

    count: int
    spans: Sequence[Span]
    observations: Obs
    following: Obs
    actions: npt.NDArray[np.generic]
    rewards: Floats
    log_probs: Floats | None = None
    values: Floats | None = None
    masks: npt.NDArray[np.bool_] | None = None


class ChunkCodec:
    """Of one pair of spaces.

    Args:
        mask_len: 0: there are no masks.
    """

    def __init__(self, observation: AnySpace, action: AnySpace, mask_len: int) -> None:
        self._observations = Codec(counted_from_zero(observation))
        self._actions = Codec(counted_from_zero(action), action=True)
        self._mask_len = mask_len

    def encode(
        self,
        seq: int,
        experience: Experience,
        *,
        pieces: Sequence[Obs] | None = None,
        compressor: zstandard.ZstdCompressor | None = None,
        buffer: str = "",
    ) -> pb.Chunk:
        """The message.

        Args:
            pieces: all observations, where ``experience`` has only the first piece of them.
            compressor: of observations; None: they are not compressed.
        """
        optional: dict[str, Any] = {
            name: np.asarray(values, "<f4").tobytes()
            for name, values in (("log_probs", experience.log_probs), ("values", experience.values))
            if values is not None
        }
        chunk = pb.Chunk(
            seq=seq,
            count=experience.count,
            spans=[pb.Span(**{name: getattr(span, name) for name in Span.__slots__}) for span in experience.spans],
            rewards=np.asarray(experience.rewards, "<f4").tobytes(),
            masks=b"" if experience.masks is None else np.asarray(experience.masks, bool).tobytes(),
            zstd=compressor is not None,
            buffer=buffer,
            **optional,
        )
        seen = [experience.observations] if pieces is None else pieces
        for rows, given in ((chunk.observations, seen), (chunk.following, [experience.following])):
            for parts in zip(*map(self._observations.slabs, given), strict=True):
                rows.slabs.append(_packed(parts, compressor))
        chunk.actions.slabs.extend(self._actions.encode(experience.actions))
        return chunk

    @staticmethod
    def parse(data: bytes) -> pb.Chunk:
        """The message of bytes that were a chunk."""
        return pb.Chunk.FromString(data)

    def decode(self, chunk: pb.Chunk, *, writable: bool = True) -> Experience:
        """What a chunk holds, every value looked at. Raises InvalidChunk.

        Args:
            writable: False: arrays are not copied out of what came where that can be helped.
        """
        count = chunk.count
        if not 1 <= count <= MAX_STEPS:
            raise InvalidChunk("count", f"{count} given; 1 to {MAX_STEPS} is accepted")
        spans = [_span(number, span) for number, span in enumerate(chunk.spans)]
        told = sum(span.count for span in spans)
        if told != count:
            raise InvalidChunk("spans", f"they have {told} steps; the chunk has {count}")
        following = sum(span.has_following for span in spans)
        rows = partial(self._rows, writable)
        return Experience(
            count,
            spans,
            rows("observations", self._observations, chunk.observations.slabs, count, chunk.zstd),
            rows("following", self._observations, chunk.following.slabs, following, chunk.zstd),
            rows("actions", self._actions, chunk.actions.slabs, count, False),  # type: ignore[arg-type]
            _numbers("rewards", chunk.rewards, count),
            _numbers("log_probs", chunk.log_probs, count) if chunk.log_probs else None,
            _numbers("values", chunk.values, count) if chunk.values else None,
            self._masks(chunk.masks, count),
        )

    def _rows(self, writable: bool, field: str, codec: Codec, slabs: Sequence[bytes], count: int, zstd: bool) -> Obs:
        try:
            if zstd and len(slabs) == len(codec.leaves):
                slabs = [_unpacked(leaf, slab, count) for leaf, slab in zip(codec.leaves, slabs, strict=True)]
            rows = codec.decode(slabs, count, writable=writable)
        except InvalidSlab as wrong:
            raise InvalidChunk(field, str(wrong).replace("lanes", "steps")) from wrong
        fault = codec.fault(rows, range(count))
        if fault:
            raise InvalidChunk(field, fault.replace("lane", "step", 1))
        return rows

    def _masks(self, data: bytes, count: int) -> npt.NDArray[np.bool_] | None:
        if not data:
            return None
        if len(data) != count * self._mask_len:
            raise InvalidChunk("masks", f"{len(data)} bytes given; none or {count} x {self._mask_len} are accepted")
        masks: npt.NDArray[np.bool_] = np.frombuffer(data, np.uint8).reshape(count, self._mask_len) != 0
        return masks


def _span(number: int, span: pb.Span) -> Span:
    where = f"spans[{number}]"
    if not 1 <= span.count <= MAX_STEPS:
        raise InvalidChunk(f"{where}.count", f"{span.count} given; 1 to {MAX_STEPS} is accepted")
    if span.start < 0 or span.episode < 0:
        raise InvalidChunk(where, f"episode {span.episode}, start {span.start} given; 0 or more are accepted")
    if not 0 <= span.version <= _MAX_VERSION:
        raise InvalidChunk(f"{where}.version", f"{span.version} given; a version of the policy is accepted")
    if span.terminated and span.truncated:
        raise InvalidChunk(where, "terminated and truncated given; an episode ends in one way")
    if not span.terminated and not span.has_following:
        raise InvalidChunk(where, "no following observation given; only a terminated span goes without")
    return Span(span.episode, span.start, span.count, span.version, span.terminated, span.truncated, span.has_following)


def _numbers(field: str, data: bytes, count: int) -> Floats:
    if len(data) != 4 * count:
        raise InvalidChunk(field, f"{len(data)} bytes given; {4 * count} are accepted ({count} float32)")
    values = np.frombuffer(data, "<f4").astype(np.float32)
    if not all_finite(values):
        wrong = np.flatnonzero(~np.isfinite(values))
        raise InvalidChunk(field, f"{values[wrong[0]]} given at step {wrong[0]}; finite numbers are accepted")
    return values


def _packed(parts: Sequence[Any], compressor: zstandard.ZstdCompressor | None) -> bytes:
    if compressor is None:
        return b"".join(part.data for part in parts)
    if len(parts) == 1:
        return compressor.compress(parts[0].data)
    frame = compressor.compressobj(size=sum(part.nbytes for part in parts))
    return b"".join([*(frame.compress(part.data) for part in parts), frame.flush()])


def _unpacked(leaf: Leaf, slab: bytes, count: int) -> bytes:
    """Never more than the spaces allow, whatever the bytes say of themselves."""
    size = leaf.row_bytes * count
    try:
        params = zstandard.get_frame_parameters(slab)
        if params.content_size not in (size, 0) or params.window_size > max(size, 1 << 20):
            raise InvalidSlab(f"{leaf.name}: {params.content_size} bytes came; {size} were expected")
        return zstandard.ZstdDecompressor().decompress(slab, max_output_size=size) if size else b""
    except zstandard.ZstdError as error:
        raise InvalidSlab(f"{leaf.name}: no zstd frame: {error}") from error
