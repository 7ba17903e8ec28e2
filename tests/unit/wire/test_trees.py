"""Nested values as bytes."""

from __future__ import annotations

import io
import math
import random
from typing import Any

import numpy as np
import pytest

from auxilium_rl.wire.trees import InvalidTree, pack, unpack


def test_everything_comes_back_exactly() -> None:
    tree = {
        "numbers": [0, -1, 2**200, 0.1, -0.0, 5e-324, math.inf],
        "text": "ä\n",
        "nothing": None,
        "flags": (True, False),
        "bytes": bytes(range(256)),
        "python": random.Random(3).getstate(),
        "numpy": np.random.RandomState(3).get_state(),
        "empty": {"list": [], "map": {}, "tuple": (), "array": np.empty((0, 3))},
        "arrays": {
            "a b": np.arange(6, dtype="<i2").reshape(2, 3),
            "flag": np.array([True]),
            "float": np.array([np.nan]),
        },
    }
    back = unpack(pack(tree))
    arrays, given = back.pop("arrays"), tree.pop("arrays")
    assert isinstance(given, dict)
    for name, array in given.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].tobytes() == array.tobytes()
    assert back.pop("empty")["array"].shape == (0, 3)
    tree.pop("empty")
    numpy_state, numpy_given = back.pop("numpy"), tree.pop("numpy")
    assert isinstance(numpy_given, tuple)
    assert (numpy_state[1] == numpy_given[1]).all()
    assert numpy_state[2:] == numpy_given[2:]
    assert back == tree
    assert math.copysign(1, back["numbers"][4]) == -1
    assert type(back["flags"]) is tuple


def test_not_a_number() -> None:
    assert math.isnan(unpack(pack([math.nan]))[0])


@pytest.mark.parametrize(
    "value",
    [object(), {1: 2}, {"$array": 1}, np.array([object()], dtype=object), {"x": {1, 2}}, 1j],
    ids=["object", "number as key", "reserved key", "array of objects", "set", "complex"],
)
def test_what_cannot_be_stored_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot be stored"):
        pack(value)


def _without_tree() -> bytes:
    file = io.BytesIO()
    np.savez(file, other=np.zeros(1))
    return file.getvalue()


def _pickled() -> bytes:
    file = io.BytesIO()
    np.savez(file, tree=np.array([{"a": 1}], dtype=object))
    return file.getvalue()


def _of(text: bytes) -> bytes:
    file = io.BytesIO()
    np.savez(file, tree=np.frombuffer(text, np.uint8))
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [b"", b"garbage", pack([1, 2])[:-30], _without_tree(), _pickled(), _of(b"{"), _of(b'{"$array": "none"}'),
     _of(b'{"$bytes": "?"}'), _of(b'{"$tuple": 3}'), _of(b'{"$array": []}')],
)  # fmt: skip
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidTree, match="not a stored state"):
        unpack(data)
