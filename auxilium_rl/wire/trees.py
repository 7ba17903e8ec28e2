"""Nested values as bytes and back, exactly and without pickle: numbers, text, bytes, lists, maps and NumPy arrays."""

from __future__ import annotations

import base64
import binascii
import io
import json
import zipfile
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["InvalidTree", "pack", "unpack"]

_TREE = "tree"
_ARRAY, _BYTES, _TUPLE = "$array", "$bytes", "$tuple"


class InvalidTree(ValueError):
    """Bytes that ``pack`` did not make."""


def pack(tree: Any) -> bytes:
    """``tree`` as an ``.npz`` archive of its arrays and one JSON document.

    Keys of maps are text that does not begin with ``$``. Floats keep every bit, NaN and infinities too; whole numbers
    any size. Raises TypeError for a value that cannot be stored.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    text = json.dumps(_plain(tree, arrays)).encode()
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **{_TREE: np.frombuffer(text, np.uint8), **arrays})
    return file.getvalue()


def unpack(data: bytes) -> Any:
    """What ``pack`` was given. Raises InvalidTree."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return _rebuilt(json.loads(arrays.pop(_TREE).tobytes()), arrays)
    except (ValueError, KeyError, OSError, EOFError, TypeError, RecursionError, zipfile.BadZipFile) as error:
        raise InvalidTree(f"not a stored state: {type(error).__name__}: {error}") from error


def _plain(value: Any, arrays: dict[str, npt.NDArray[Any]]) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return {_ARRAY: _kept(np.asarray(value), arrays)}
    if isinstance(value, bytes):
        return {_BYTES: base64.b64encode(value).decode()}
    if isinstance(value, (list, tuple)):
        items = [_plain(item, arrays) for item in value]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    if isinstance(value, dict):
        return {_key(key): _plain(item, arrays) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be stored")


def _kept(array: npt.NDArray[Any], arrays: dict[str, npt.NDArray[Any]]) -> str:
    if array.dtype.hasobject:
        raise TypeError("an array of Python objects cannot be stored")
    name = f"array{len(arrays)}"
    arrays[name] = array
    return name


def _key(key: Any) -> str:
    if not isinstance(key, str) or key.startswith("$"):
        raise TypeError(f"the key {key!r:.80} cannot be stored; text that does not begin with $ can")
    return key


def _rebuilt(value: Any, arrays: dict[str, npt.NDArray[Any]]) -> Any:
    if isinstance(value, list):
        return [_rebuilt(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if _ARRAY in value:
        return arrays[value[_ARRAY]]
    if _BYTES in value:
        try:
            return base64.b64decode(value[_BYTES], validate=True)
        except binascii.Error as error:
            raise ValueError(str(error)) from error
    if _TUPLE in value:
        return tuple(_rebuilt(item, arrays) for item in value[_TUPLE])
    return {key: _rebuilt(item, arrays) for key, item in value.items()}
