"""Files on the wire: compressed, or as the compressed difference to a file that the other side has."""

from __future__ import annotations

import hashlib

import numpy as np
import zstandard

from generated.auxilium.v1 import policies_pb2 as pb

__all__ = ["InvalidPayload", "pack_payload", "unpack_payload"]

_LEVEL = 9
_MOST = 1 << 30


class InvalidPayload(ValueError):
    """Bytes that are not what they should be; whoever took them asks for the whole file."""


def pack_payload(data: bytes, base: bytes | None = None) -> pb.Payload:
    """``data``, as the difference to ``base`` where that is shorter."""
    sha256 = hashlib.sha256(data).hexdigest()
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    whole = compressor.compress(data)
    if base is not None and len(base) == len(data):
        difference = compressor.compress(_xor(data, base))
        if len(difference) < len(whole):
            return pb.Payload(
                encoding=pb.Payload.ENCODING_XOR_ZSTD,
                base_sha256=hashlib.sha256(base).hexdigest(),
                data=difference,
                size=len(data),
                sha256=sha256,
            )
    return pb.Payload(encoding=pb.Payload.ENCODING_ZSTD, data=whole, size=len(data), sha256=sha256)


def unpack_payload(payload: pb.Payload, base: bytes | None = None) -> bytes:
    """The file. Raises InvalidPayload when it does not have the hash it should have."""
    if not 0 <= payload.size <= _MOST:
        raise InvalidPayload(f"a file of {payload.size} bytes was announced; at most {_MOST} are taken")
    try:
        data = zstandard.ZstdDecompressor().decompress(payload.data, max_output_size=payload.size)
    except zstandard.ZstdError as error:
        raise InvalidPayload(f"not compressed as it should be: {error}") from error
    if payload.encoding == pb.Payload.ENCODING_XOR_ZSTD:
        if base is None or len(base) != len(data) or hashlib.sha256(base).hexdigest() != payload.base_sha256:
            raise InvalidPayload("a difference came to a file that is not here")
        data = _xor(data, base)
    elif payload.encoding != pb.Payload.ENCODING_ZSTD:
        raise InvalidPayload(f"encoding {payload.encoding} is not known here")
    found = hashlib.sha256(data).hexdigest()
    if found != payload.sha256 or len(data) != payload.size:
        raise InvalidPayload(f"sha256 {payload.sha256} was announced, {found} came")
    return data


def _xor(data: bytes, base: bytes) -> bytes:
    return np.bitwise_xor(np.frombuffer(data, np.uint8), np.frombuffer(base, np.uint8)).tobytes()
