"""Plain values and arrays as messages. Nothing is pickled."""

from __future__ import annotations

from typing import Any

import numpy as np
from google.protobuf import json_format, struct_pb2

from generated.auxilium.v1 import device_pb2 as pb

__all__ = ["from_message", "to_message"]

_KINDS = "biuf"


def to_message(value: Any) -> pb.DeviceValue:
    """The message of a value. Raises ValueError for one that is neither an array, bytes nor JSON."""
    if isinstance(value, (bytes, bytearray)):
        return pb.DeviceValue(raw=bytes(value))
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        if array.dtype.kind not in _KINDS:
            raise ValueError(f"an array of {array.dtype} given; numbers and booleans are accepted")
        data = array.astype(array.dtype.newbyteorder("<")).tobytes()
        return pb.DeviceValue(array=pb.DeviceArray(dtype=array.dtype.name, shape=array.shape, data=data))
    try:
        return pb.DeviceValue(json=json_format.ParseDict(value, struct_pb2.Value()))
    except (json_format.ParseError, TypeError, AttributeError) as error:
        raise ValueError(f"{value!r:.80} given; numbers, text, lists, maps, bytes and arrays are accepted") from error


def from_message(message: pb.DeviceValue) -> Any:
    """The value of a message; None for an empty one. Raises ValueError for an array whose bytes do not fit."""
    kind = message.WhichOneof("kind")
    if kind == "raw":
        return message.raw
    if kind == "array":
        return _array(message.array)
    return None if kind is None else json_format.MessageToDict(message.json)


def _array(message: pb.DeviceArray) -> Any:
    try:
        dtype = np.dtype(message.dtype)
    except TypeError as error:
        raise ValueError(f"dtype '{message.dtype:.40}' given; numpy's names of numbers are accepted") from error
    shape = tuple(message.shape)
    if dtype.kind not in _KINDS or any(size < 0 for size in shape):
        raise ValueError(f"an array of {message.dtype:.40} and shape {list(shape)} given; numbers are accepted")
    expected = dtype.itemsize * int(np.prod(shape, dtype=np.float64))
    if len(message.data) != expected:
        raise ValueError(f"{len(message.data)} bytes came; {expected} were expected ({list(shape)} {dtype.name})")
    return np.frombuffer(message.data, dtype.newbyteorder("<")).astype(dtype).reshape(shape)
