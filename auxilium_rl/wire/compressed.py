"""Arrays as zstd frames, one after another; what is read of them is never more than was expected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from auxilium_rl.wire.spaces import InvalidSlab

__all__ = ["packed", "unpacked", "unpacked_blocks"]

_WINDOW = 1 << 20


def packed(parts: Sequence[npt.NDArray[Any]], compressor: zstandard.ZstdCompressor | None) -> bytes:
    """C-contiguous arrays one after another; compressed, each is a frame. None: they are not compressed."""
    if compressor is None:
        return b"".join([part.data for part in parts])
    if len(parts) == 1:
        return compressor.compress(parts[0].data)
    # All at once: an agent that acts waits for the interpreter whenever the thread that packs gets it back.
    frames: Any = compressor.multi_compress_to_buffer([part.data for part in parts])
    return b"".join(frames)


def unpacked(name: str, frames: bytes, size: int) -> memoryview:
    """The bytes of frames. Raises InvalidSlab, with ``name``, unless there are exactly ``size``."""
    for block in unpacked_blocks(name, frames, size, size):
        return block
    return memoryview(b"")


def unpacked_blocks(name: str, frames: bytes, size: int, most: int) -> Iterator[memoryview]:
    """As ``unpacked``, up to ``most`` bytes at a time; each takes the memory of the one before."""
    window, came = max(size, _WINDOW), 0
    try:
        params = zstandard.get_frame_parameters(frames)
        if params.content_size > size or params.window_size > window:
            raise InvalidSlab(f"{name}: {params.content_size} bytes came; {size} were expected")
        reader = zstandard.ZstdDecompressor(max_window_size=window).stream_reader(frames, read_across_frames=True)
        memory = np.empty(min(most, size), np.uint8).data
        while came < size:
            block = memory[: min(most, size - came)]
            read = reader.readinto(block)
            came += read
            if read < len(block):
                raise InvalidSlab(f"{name}: {came} bytes came; {size} were expected")
            if came == size and reader.read(1):
                raise InvalidSlab(f"{name}: more bytes came; {size} were expected")
            yield block
        if not size and reader.read(1):
            raise InvalidSlab(f"{name}: bytes came; none were expected")
    except zstandard.ZstdError as error:
        raise InvalidSlab(f"{name}: no zstd frame: {error}") from error
