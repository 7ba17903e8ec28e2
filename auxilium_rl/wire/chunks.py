"""Chunks of experience: between arrays and the messages of ``auxilium.v1.ExperienceService``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import zstandard

from auxilium_rl.wire.compressed import packed, unpacked, unpacked_blocks
from auxilium_rl.wire.rows import AnySpace, Obs, all_finite
from auxilium_rl.wire.spaces import Codec, InvalidSlab, counted_from_zero
from generated.auxilium.v1 import experience_pb2 as pb

__all__ = ["MAX_STEPS", "ChunkCodec", "Experience", "InvalidChunk", "Pieces", "Span"]

Floats = npt.NDArray[np.float32]
MAX_STEPS = 1 << 20
"""Of one chunk."""
MAX_BYTES = 1 << 30
"""Of what was seen in one chunk: few bytes may become very many when they are decompressed."""
_MAX_VERSION = 2**31 - 1
_BLOCK = 1 << 18
"""Bytes that are looked at before the next are decompressed; they are in the processor's cache still."""
_Decode = Callable[[str, Codec, Sequence[bytes], int, bool], Obs]


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


class Pieces(NamedTuple):
    """What was seen, as it lies: one piece after another.

    Attributes:
        observations: each ``(any number, *shape)``. masks: each ``(any number, mask_len)``; None: there are none.
    """

    observations: Sequence[Obs]
    masks: Sequence[npt.NDArray[np.bool_]] | None


class ChunkCodec:
    """Of one pair of spaces.

    Args:
        mask_len: 0: there are no masks.
    """

    def __init__(self, observation: AnySpace, action: AnySpace, mask_len: int) -> None:
        self._observations = Codec(counted_from_zero(observation))
        self._actions = Codec(counted_from_zero(action), action=True)
        self._mask_len = mask_len
        self._row_bytes = sum(leaf.row_bytes for leaf in self._observations.leaves)

    def encode(
        self,
        seq: int,
        experience: Experience,
        *,
        pieces: Pieces | None = None,
        compressor: zstandard.ZstdCompressor | None = None,
        buffer: str = "",
        into: pb.Chunk | None = None,
    ) -> pb.Chunk:
        """The message.

        Args:
            pieces: what was seen, in the place of what ``experience`` has of it.
            compressor: of observations and masks; None: they are not compressed.
            into: an empty message, which is filled; it may be a part of another.
        """
        chunk = pb.Chunk() if into is None else into
        seen = pieces or Pieces([experience.observations], None if experience.masks is None else [experience.masks])
        chunk.seq, chunk.count, chunk.buffer, chunk.zstd = seq, experience.count, buffer, compressor is not None
        for span in experience.spans:
            chunk.spans.add(**{name: getattr(span, name) for name in Span.__slots__})
        chunk.rewards = np.asarray(experience.rewards, "<f4").tobytes()
        for name, values in (("log_probs", experience.log_probs), ("values", experience.values)):
            if values is not None:
                setattr(chunk, name, np.asarray(values, "<f4").tobytes())
        if seen.masks is not None:
            chunk.masks = packed([np.ascontiguousarray(part, bool) for part in seen.masks], compressor)
            chunk.zstd_masks = compressor is not None
        for rows, given in ((chunk.observations, seen.observations), (chunk.following, [experience.following])):
            for parts in zip(*map(self._observations.slabs, given), strict=True):
                rows.slabs.append(packed(parts, compressor))
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
        return self._decoded(chunk, partial(self._rows, writable))

    def check(self, chunk: pb.Chunk) -> Experience:
        """As ``decode``, but what was seen is looked at piece by piece and not kept: there are no rows of it."""
        return self._decoded(chunk, self._look)

    def spans(self, chunk: pb.Chunk) -> list[Span]:
        """Those of a chunk. Raises InvalidChunk."""
        count = chunk.count
        if not 1 <= count <= MAX_STEPS:
            raise InvalidChunk("count", f"{count} given; 1 to {MAX_STEPS} is accepted")
        if count * self._row_bytes > MAX_BYTES:
            seen = f"{count} given, of {self._row_bytes} bytes that were seen each"
            raise InvalidChunk("count", f"{seen}; {MAX_BYTES} bytes are accepted at once")
        spans = [_span(number, span) for number, span in enumerate(chunk.spans)]
        told = sum(span.count for span in spans)
        if told != count:
            raise InvalidChunk("spans", f"they have {told} steps; the chunk has {count}")
        return spans

    def _decoded(self, chunk: pb.Chunk, seen: _Decode) -> Experience:
        spans, count = self.spans(chunk), chunk.count
        following = sum(span.has_following for span in spans)
        return Experience(
            count,
            spans,
            seen("observations", self._observations, chunk.observations.slabs, count, chunk.zstd),
            seen("following", self._observations, chunk.following.slabs, following, chunk.zstd),
            self._rows(True, "actions", self._actions, chunk.actions.slabs, count, False),  # type: ignore[arg-type]
            _numbers("rewards", chunk.rewards, count),
            _numbers("log_probs", chunk.log_probs, count) if chunk.log_probs else None,
            _numbers("values", chunk.values, count) if chunk.values else None,
            self._masks(chunk.masks, count, chunk.zstd_masks),
        )

    def _look(self, field: str, codec: Codec, slabs: Sequence[bytes], count: int, zstd: bool) -> Obs:
        if not zstd or len(slabs) != len(codec.leaves):
            self._rows(False, field, codec, slabs, count, False)
            return codec.decode([b""] * len(codec.leaves), 0)
        try:
            for leaf, slab in zip(codec.leaves, slabs, strict=True):
                rows, first = max(_BLOCK // max(leaf.row_bytes, 1), 1), 0
                for block in unpacked_blocks(leaf.name, slab, leaf.row_bytes * count, leaf.row_bytes * rows):
                    fault = codec.fault_of(leaf, block, first)
                    if fault:
                        raise InvalidChunk(field, fault.replace("lane", "step", 1))
                    first += rows
        except InvalidSlab as wrong:
            raise InvalidChunk(field, str(wrong)) from wrong
        return codec.decode([b""] * len(codec.leaves), 0)

    def _rows(self, writable: bool, field: str, codec: Codec, given: Sequence[bytes], count: int, zstd: bool) -> Obs:
        try:
            slabs: Sequence[bytes | memoryview] = given
            if zstd and len(given) == len(codec.leaves):
                slabs = [
                    unpacked(leaf.name, slab, leaf.row_bytes * count)
                    for leaf, slab in zip(codec.leaves, given, strict=True)
                ]
            rows = codec.decode(slabs, count, writable=writable)
        except InvalidSlab as wrong:
            raise InvalidChunk(field, str(wrong).replace("lanes", "steps")) from wrong
        fault = codec.fault(rows, range(count))
        if fault:
            raise InvalidChunk(field, fault.replace("lane", "step", 1))
        return rows

    def _masks(self, given: bytes, count: int, zstd: bool) -> npt.NDArray[np.bool_] | None:
        if not given:
            return None
        data: bytes | memoryview = given
        if zstd:
            try:
                data = unpacked("masks", given, count * self._mask_len)
            except InvalidSlab as wrong:
                raise InvalidChunk("masks", str(wrong).removeprefix("masks: ")) from wrong
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
