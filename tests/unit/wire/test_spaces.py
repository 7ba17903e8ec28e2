from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from auxilium_rl.wire.rows import stack
from auxilium_rl.wire.spaces import (
    Codec,
    InvalidSlab,
    UnsupportedSpace,
    counted_from_zero,
    mask_length,
    space_message,
    space_of,
)
from generated.simulation.v2 import simulation_pb2 as pb

DTYPES = ("uint8", "int8", "int16", "int32", "int64", "float32", "float64", "uint16")
shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)


def _box(dtype: str, shape: tuple[int, ...], bounded: bool) -> spaces.Box:
    kind = np.dtype(dtype)
    if bounded or kind.kind != "f":
        return spaces.Box(0, 100, shape, kind.type)
    return spaces.Box(-np.inf, np.inf, shape, kind.type)


leaves: st.SearchStrategy[Any] = st.one_of(
    st.builds(_box, st.sampled_from(DTYPES), shapes, st.booleans()),
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 9), st.integers(-5, 5)),
    st.builds(
        lambda nvec, start: spaces.MultiDiscrete(nvec, start=[start] * len(nvec)),
        st.lists(st.integers(1, 5), min_size=1, max_size=4),
        st.integers(-3, 3),
    ),
    st.builds(spaces.MultiBinary, st.integers(1, 6)),
)
every = st.one_of(leaves, st.dictionaries(st.text("abcxyz", min_size=1), leaves, min_size=1).map(spaces.Dict))


@given(every)
def test_a_space_comes_back_equal(space: Any) -> None:
    assert space_of(pb.Space.FromString(space_message(space).SerializeToString()), "observation") == space


@given(every, st.integers(1, 4), st.integers(0, 1000))
def test_elements_come_back_bit_for_bit(space: Any, count: int, seed: int) -> None:
    flat = counted_from_zero(space)
    flat.seed(seed)
    rows = stack([flat.sample() for _ in range(count)], flat)
    codec = Codec(flat)
    back = codec.decode(codec.encode(rows), count)
    assert codec.fault(back, range(count)) == ""
    if isinstance(rows, dict):
        assert isinstance(back, dict)
        assert list(back) == list(rows)
        for key, values in rows.items():
            np.testing.assert_array_equal(back[key], values)
    else:
        np.testing.assert_array_equal(back, rows)


def test_leaves_keep_their_declared_order() -> None:
    declared = spaces.Dict([("b", spaces.Discrete(2)), ("a", spaces.MultiBinary(3))])
    back = space_of(space_message(declared), "observation")
    assert isinstance(back, spaces.Dict)
    assert list(back.spaces) == ["b", "a"]
    assert [leaf.key for leaf in Codec(counted_from_zero(back)).leaves] == ["b", "a"]


def test_bounds_that_differ_travel_whole_and_equal_ones_once() -> None:
    apart = space_message(spaces.Box(np.array([0.0, 1.0], np.float32), np.array([2.0, 3.0], np.float32)))
    alike = space_message(spaces.Box(0, 255, (84, 84, 4), np.uint8))
    assert (len(apart.box.low), len(alike.box.low)) == (8, 1)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (pb.Space(), "no kind of space was given"),
        (pb.Space(shape=[0], dtype=pb.DTYPE_FLOAT32, box=pb.Box()), "every size must be above 0"),
        (pb.Space(shape=[2], box=pb.Box()), "dtype 0 given"),
        (pb.Space(shape=[2], dtype=pb.DTYPE_FLOAT32, box=pb.Box(low=b"123")), "3 bytes given; 4"),
        (
            pb.Space(
                shape=[1],
                dtype=pb.DTYPE_FLOAT32,
                box=pb.Box(low=np.float32(2).tobytes(), high=np.float32(1).tobytes()),
            ),
            "low lies above high",
        ),
        (pb.Space(discrete=pb.Discrete(n=0)), "discrete of shape"),
        (pb.Space(shape=[2], multi_discrete=pb.MultiDiscrete(nvec=[1, 2, 3])), "multi_discrete of shape"),
        (pb.Space(dict=pb.Dict(keys=["a"], spaces=[])), "1 keys and 0 spaces"),
        (pb.Space(dict=pb.Dict(keys=["a", "a"], spaces=[pb.Space(discrete=pb.Discrete(n=1))] * 2)), "keys must differ"),
        (
            pb.Space(
                dict=pb.Dict(
                    keys=["a"],
                    spaces=[pb.Space(dict=pb.Dict(keys=["b"], spaces=[pb.Space(discrete=pb.Discrete(n=1))]))],
                )
            ),
            "must not nest",
        ),
    ],
)
def test_a_message_that_is_no_space(message: pb.Space, says: str) -> None:
    with pytest.raises(UnsupportedSpace, match=says):
        space_of(message, "observation")


def test_a_space_that_cannot_travel() -> None:
    with pytest.raises(UnsupportedSpace, match="Tuple: Box, Discrete"):
        space_message(spaces.Tuple([spaces.Discrete(2)]))
    with pytest.raises(UnsupportedSpace, match="dtype uint32 cannot travel"):
        space_message(spaces.Box(0, 9, (2,), np.uint32))


def test_wrong_byte_counts_name_the_leaf() -> None:
    codec = Codec(spaces.Dict({"image": spaces.Box(0, 255, (2, 2), np.uint8), "speed": spaces.Box(-1, 1, (3,))}))
    with pytest.raises(
        InvalidSlab, match=r"leaf 'speed': 11 bytes came; 24 were expected \(2 lanes of \[3\] float32\)"
    ):
        codec.decode([bytes(8), bytes(11)], 2)
    with pytest.raises(InvalidSlab, match="1 slabs came; 2 leaves were agreed"):
        codec.decode([bytes(8)], 2)


@pytest.mark.parametrize(
    ("space", "rows", "says"),
    [
        (spaces.Box(-1, 1, (2,)), [[0.0, 1.0], [np.nan, 0.0]], r"lane 7: observation\[0\] is nan; every value"),
        (spaces.Box(-1, 1, (2,)), [[0.0, np.inf], [0.0, 0.0]], r"lane 3: observation\[1\] is inf"),
        (spaces.Discrete(3), [1, 3], "lane 7: observation is 3; 0 to 2 was agreed"),
        (spaces.MultiDiscrete([2, 3]), [[0, 0], [0, 3]], r"lane 7: observation\[1\] is 3; 0 to below"),
        (spaces.MultiBinary(2), [[0, 2], [0, 0]], r"lane 3: observation\[1\] is 2; 0 or 1"),
    ],
)
def test_values_outside_the_space_are_named(space: Any, rows: Any, says: str) -> None:
    import re

    assert re.match(says, Codec(space).fault(np.asarray(rows, space.dtype), [3, 7]))


def test_mask_lengths() -> None:
    assert mask_length(spaces.Discrete(5)) == 5
    assert mask_length(spaces.MultiDiscrete([2, 3])) == 5
    assert mask_length(spaces.MultiBinary(4)) == 8
    assert mask_length(spaces.Box(-1, 1, (3,))) == 0
