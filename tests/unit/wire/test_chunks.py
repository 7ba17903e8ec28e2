"""Chunks come through as they were made, and what is none is refused before it takes memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zstandard
from gymnasium import spaces

from auxilium_rl.wire.chunks import MAX_BYTES, ChunkCodec, Experience, InvalidChunk, Pieces, Span
from generated.auxilium.v1 import experience_pb2 as pb

FAR = spaces.Box(-9, 9, (500,), np.float32)
SPACES = {
    "box": FAR,
    "dict": spaces.Dict({"far": FAR, "kind": spaces.Discrete(5)}),
    "bytes": spaces.Box(0, 255, (9,), np.uint8),
}
ACTION, MASK, COUNT = spaces.Discrete(3), 3, 300
ZSTD = zstandard.ZstdCompressor(level=1)


def made(space: spaces.Space[Any]) -> tuple[Experience, Pieces]:
    """Steps of one episode, in three pieces of several lengths."""
    space.seed(0)
    rng = np.random.default_rng(0)
    if isinstance(space, spaces.Dict):
        rows: Any = {key: np.array([leaf.sample() for _ in range(COUNT)], leaf.dtype) for key, leaf in space.items()}
    else:
        rows = np.array([space.sample() for _ in range(COUNT)], space.dtype)
    masks = rng.random((COUNT, MASK)) < 0.7
    cuts = [slice(0, 7), slice(7, 200), slice(200, COUNT)]
    pieces = [{key: leaf[cut] for key, leaf in rows.items()} if isinstance(rows, dict) else rows[cut] for cut in cuts]
    last = {key: leaf[-1:] for key, leaf in rows.items()} if isinstance(rows, dict) else rows[-1:]
    numbers = rng.normal(size=COUNT).astype(np.float32)
    span = Span(1, 0, COUNT, 4, terminated=False, truncated=True, has_following=True)
    whole = Experience(COUNT, [span], rows, last, rng.integers(0, 3, COUNT), numbers, numbers, None, masks)
    return whole, Pieces(pieces, [masks[cut] for cut in cuts])


def seen(rows: Any) -> list[list[Any]]:
    return [leaf.tolist() for leaf in (rows.values() if isinstance(rows, dict) else [rows])]


@pytest.mark.parametrize("compressor", [None, ZSTD], ids=["plain", "zstd"])
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
def test_pieces_are_as_good_as_the_whole(space: spaces.Space[Any], compressor: Any) -> None:
    codec = ChunkCodec(space, ACTION, MASK)
    whole, pieces = made(space)
    request = pb.PushRequest()
    chunks = (
        codec.encode(1, whole, compressor=compressor),
        codec.encode(1, whole, pieces=pieces, compressor=compressor, into=request.chunk),
    )
    assert request.chunk.count == COUNT
    for chunk in chunks:
        sent = codec.decode(codec.parse(chunk.SerializeToString()))
        assert seen(sent.observations) == seen(whole.observations)
        assert seen(sent.following) == seen(whole.following)
        assert whole.masks is not None
        assert np.array_equal(sent.masks, whole.masks)  # type: ignore[arg-type]
        looked_at = codec.check(chunk)
        assert [len(rows) for rows in seen(looked_at.observations)] == [0] * len(seen(whole.observations))
        assert (looked_at.spans, looked_at.rewards.tolist()) == (sent.spans, sent.rewards.tolist())


def test_what_was_decoded_may_be_written_to() -> None:
    whole, _ = made(FAR)
    codec = ChunkCodec(FAR, ACTION, MASK)
    for compressor in (None, ZSTD):
        sent: Any = codec.decode(codec.encode(1, whole, compressor=compressor))
        sent.observations[0, 0] = 1.0
        assert sent.observations[0, 0] == 1.0


def wrong(**fields: Any) -> pb.Chunk:
    """A good chunk, compressed, but for some fields; slabs are those of the observations."""
    chunk = ChunkCodec(FAR, ACTION, MASK).encode(1, made(FAR)[0], compressor=ZSTD)
    for name, value in fields.items():
        if name == "slab":
            chunk.observations.slabs[0] = value
        else:
            setattr(chunk, name, value)
    return chunk


def rows_with(value: float, row: int) -> bytes:
    rows = np.zeros((COUNT, 500), "<f4")
    rows[row, 3] = value
    return ZSTD.compress(rows.tobytes())


@pytest.mark.parametrize(
    ("chunk", "field", "words"),
    [
        (wrong(slab=rows_with(np.nan, 299)), "observations", "step 299: observation[3] is nan; every value must be"),
        (wrong(slab=rows_with(0.0, 0)[:-5]), "observations", "600000 were expected"),
        (wrong(slab=rows_with(0.0, 0) + ZSTD.compress(b"x")), "observations", "more bytes came; 600000 were expected"),
        (wrong(slab=ZSTD.compress(bytes(600_001))), "observations", "600001 bytes came; 600000 were expected"),
        (wrong(slab=ZSTD.compress(bytes(599_999))), "observations", "599999 bytes came; 600000 were expected"),
        (wrong(slab=b"\x80\x04cos\nsystem\n"), "observations", "no zstd frame"),
        (wrong(slab=b""), "observations", "no zstd frame"),
        (wrong(masks=b"\1" * COUNT * MASK), "masks", "no zstd frame"),
        (wrong(masks=ZSTD.compress(bytes(7))), "masks", "7 bytes came; 900 were expected"),
        (wrong(zstd_masks=False), "masks", f"none or {COUNT} x {MASK} are accepted"),
        (wrong(count=1 << 20), "count", f"1048576 given, of 2000 bytes that were seen each; {MAX_BYTES} bytes are"),
        (wrong(count=0), "count", "0 given; 1 to 1048576 is accepted"),
    ],
)
def test_what_is_no_chunk(chunk: pb.Chunk, field: str, words: str) -> None:
    codec = ChunkCodec(FAR, ACTION, MASK)
    for look in (codec.decode, codec.check):
        with pytest.raises(InvalidChunk) as refused:
            look(chunk)
        assert refused.value.field == field
        assert words in str(refused.value)


def test_few_bytes_that_become_very_many_take_no_memory() -> None:
    """A frame that says nothing of its size."""
    frame = ZSTD.compressobj()
    bomb = b"".join([*(frame.compress(bytes(1 << 20)) for _ in range(300)), frame.flush()])
    assert len(bomb) < 100_000
    with pytest.raises(InvalidChunk, match="600000 were expected"):
        ChunkCodec(FAR, ACTION, MASK).check(wrong(slab=bomb))
