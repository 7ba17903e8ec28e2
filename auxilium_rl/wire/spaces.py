"""Gymnasium's spaces as messages, and their elements as slabs of bytes.

On the wire an element of a space is one slab for each leaf: rows in C order, little endian. Discrete and MultiDiscrete
count from 0 whatever their ``start``; the simulator's side adds and takes away.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import json_format
from gymnasium import spaces

from auxilium_rl.wire.rows import AnySpace, Obs, all_finite
from generated.simulation.v2 import simulation_pb2 as pb

__all__ = [
    "Codec",
    "InvalidSlab",
    "Leaf",
    "UnsupportedSpace",
    "counted_from_zero",
    "leaves_of",
    "mask_length",
    "shifted",
    "space_from_json",
    "space_json",
    "space_message",
    "space_of",
    "spaces_digest",
]

_DTYPES: dict[int, str] = {
    pb.DTYPE_BOOL: "bool",
    pb.DTYPE_UINT8: "uint8",
    pb.DTYPE_INT8: "int8",
    pb.DTYPE_INT16: "int16",
    pb.DTYPE_INT32: "int32",
    pb.DTYPE_INT64: "int64",
    pb.DTYPE_FLOAT32: "float32",
    pb.DTYPE_FLOAT64: "float64",
    pb.DTYPE_UINT16: "uint16",
}
_NUMBERS = {name: number for number, name in _DTYPES.items()}


class UnsupportedSpace(ValueError):
    """A space that cannot travel, or a message that describes none."""


class InvalidSlab(ValueError):
    """Bytes that are not what the contract says; names the leaf, what was expected and what came."""


@dataclass(frozen=True)
class Leaf:
    """One array of a space. ``key`` is empty unless the space is a Dict."""

    key: str
    space: AnySpace
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"leaf '{self.key}'" if self.key else "the only leaf"

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one lane."""
        return int(self.dtype.itemsize * np.prod(self.shape, dtype=np.int64))


def leaves_of(space: AnySpace, *, action: bool = False) -> tuple[Leaf, ...]:
    """The leaves in declared order. Box actions travel as float32 whatever their dtype. Raises UnsupportedSpace."""
    if isinstance(space, spaces.Dict):
        return tuple(_leaf(key, leaf, action) for key, leaf in space.spaces.items())
    return (_leaf("", space, action),)


def _leaf(key: str, space: AnySpace, action: bool) -> Leaf:
    if isinstance(space, spaces.Box):
        if str(space.dtype) not in _NUMBERS:
            raise UnsupportedSpace(f"{space}: dtype {space.dtype} cannot travel; {', '.join(_NUMBERS)} can")
        return Leaf(key, space, np.dtype("<f4") if action else np.dtype(space.dtype).newbyteorder("<"), space.shape)
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        return Leaf(key, space, np.dtype("<i8"), tuple(space.shape or ()))
    if isinstance(space, spaces.MultiBinary):
        return Leaf(key, space, np.dtype("u1"), tuple(space.shape))
    raise UnsupportedSpace(
        f"{type(space).__name__}: Box, Discrete, MultiDiscrete, MultiBinary and one level of Dict can travel"
    )


def counted_from_zero(space: AnySpace) -> AnySpace:
    """The space as it travels: Discrete and MultiDiscrete without ``start``, MultiBinary as it is."""
    if isinstance(space, spaces.Dict):
        return _in_order({key: counted_from_zero(leaf) for key, leaf in space.spaces.items()})
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(space.nvec)
    return space


def shifted(space: AnySpace, element: Any, sign: int) -> Any:
    """An element, or rows, with what Discrete and MultiDiscrete start from added (+1) or taken away (-1)."""
    if isinstance(space, spaces.Dict):
        return {key: shifted(leaf, element[key], sign) for key, leaf in space.spaces.items()}
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) and np.any(space.start):
        return element + sign * space.start
    return element


def _in_order(leaves: dict[str, AnySpace]) -> spaces.Dict:
    """A Dict with its keys as they were declared: of a map Gymnasium would sort them, and slabs come in order."""
    return spaces.Dict(list(leaves.items()))


def mask_length(action: AnySpace) -> int:
    """How long the mask of an action space is; 0 for those that take none."""
    if isinstance(action, spaces.Discrete):
        return int(action.n)
    if isinstance(action, spaces.MultiDiscrete):
        return int(action.nvec.sum())
    if isinstance(action, spaces.MultiBinary):
        return 2 * int(np.prod(action.shape, dtype=np.int64))
    return 0


def space_message(space: AnySpace) -> pb.Space:
    """The message of a space. Raises UnsupportedSpace."""
    if isinstance(space, spaces.Dict):
        leaves_of(space)
        inner = pb.Dict(keys=list(space.spaces), spaces=[space_message(leaf) for leaf in space.spaces.values()])
        return pb.Space(dict=inner)
    leaf = _leaf("", space, action=False)
    message = pb.Space(shape=leaf.shape)
    if isinstance(space, spaces.Box):
        message.dtype = pb.DType.ValueType(_NUMBERS[str(space.dtype)])
        message.box.CopyFrom(pb.Box(low=_bound(space.low, leaf.dtype), high=_bound(space.high, leaf.dtype)))
    elif isinstance(space, spaces.Discrete):
        message.dtype = pb.DTYPE_INT64
        message.discrete.CopyFrom(pb.Discrete(n=int(space.n), start=int(space.start)))
    elif isinstance(space, spaces.MultiDiscrete):
        message.dtype = pb.DTYPE_INT64
        nvec, start = space.nvec.ravel().tolist(), space.start.ravel().tolist()
        message.multi_discrete.CopyFrom(pb.MultiDiscrete(nvec=nvec, start=start))
    else:
        message.dtype = pb.DTYPE_UINT8
        message.multi_binary.CopyFrom(pb.MultiBinary())
    return message


def _bound(values: npt.NDArray[Any], dtype: np.dtype[Any]) -> bytes:
    """All elements, or one when they are equal."""
    same = values.size > 0 and bool((values == values.flat[0]).all())
    return (values.flat[0:1] if same else values).astype(dtype).tobytes()


def space_of(message: pb.Space, where: str) -> AnySpace:
    """The space that a message describes; ``where`` names it in errors. Raises UnsupportedSpace."""
    kind = message.WhichOneof("kind")
    if kind == "dict":
        if not message.dict.keys or len(message.dict.keys) != len(message.dict.spaces):
            raise UnsupportedSpace(f"{where}: {len(message.dict.keys)} keys and {len(message.dict.spaces)} spaces")
        pairs = zip(message.dict.keys, message.dict.spaces, strict=True)
        inner = {key: space_of(leaf, f"{where}['{key}']") for key, leaf in pairs}
        if len(inner) != len(message.dict.keys) or any(isinstance(leaf, spaces.Dict) for leaf in inner.values()):
            raise UnsupportedSpace(f"{where}: keys must differ and Dicts must not nest")
        return _in_order(inner)
    shape = tuple(message.shape)
    if any(size < 1 for size in shape) or len(shape) > 8 or np.prod(shape, dtype=np.float64) > 2**31:
        raise UnsupportedSpace(f"{where}: shape {list(shape)}; every size must be above 0 and the whole below 2^31")
    if kind == "box":
        return _box_of(message, shape, where)
    try:
        if kind == "discrete":
            return spaces.Discrete(message.discrete.n, start=message.discrete.start)
        if kind == "multi_discrete":
            nvec = np.array(message.multi_discrete.nvec, np.int64).reshape(shape)
            start = np.array(message.multi_discrete.start or np.zeros(nvec.size), np.int64).reshape(shape)
            return spaces.MultiDiscrete(nvec, start=start)
        if kind == "multi_binary":
            return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)  # a number where one will do: SB3 asks
    except (AssertionError, ValueError) as error:
        raise UnsupportedSpace(f"{where}: {kind} of shape {list(shape)}: {error}") from error
    raise UnsupportedSpace(f"{where}: no kind of space was given; Box, Discrete, MultiDiscrete, MultiBinary, Dict are")


def _box_of(message: pb.Space, shape: tuple[int, ...], where: str) -> spaces.Box:
    name = _DTYPES.get(message.dtype)
    if name is None:
        raise UnsupportedSpace(f"{where}: dtype {message.dtype} given; {', '.join(_NUMBERS)} are accepted")
    dtype = np.dtype(name)
    low = _bound_of(message.box.low, dtype, shape, -np.inf, f"{where}.box.low")
    high = _bound_of(message.box.high, dtype, shape, np.inf, f"{where}.box.high")
    if np.isnan(low).any() or np.isnan(high).any() or (low > high).any():
        raise UnsupportedSpace(f"{where}: a bound is NaN or low lies above high")
    return spaces.Box(low, high, shape, dtype.type)


def _bound_of(
    data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], infinite: float, where: str
) -> npt.NDArray[Any]:
    if not data:
        if dtype.kind == "f":
            return np.full(shape, infinite, dtype)
        if dtype.kind == "b":
            return np.full(shape, infinite > 0, dtype)
        limits = np.iinfo(dtype)
        return np.full(shape, limits.max if infinite > 0 else limits.min, dtype)
    count = int(np.prod(shape, dtype=np.int64))
    one, full = dtype.itemsize, dtype.itemsize * count
    if len(data) not in (one, full):
        raise UnsupportedSpace(f"{where}: {len(data)} bytes given; {one} (the same for all) or {full} are accepted")
    values: npt.NDArray[Any] = np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype)
    return np.full(shape, values[0], dtype) if values.size == 1 else values.reshape(shape)


def space_json(space: AnySpace) -> dict[str, Any]:
    """A space as JSON values that ``space_from_json`` turns back. Raises UnsupportedSpace."""
    told: dict[str, Any] = json_format.MessageToDict(space_message(space))
    return told


def space_from_json(told: dict[str, Any], where: str) -> AnySpace:
    """The space of ``space_json``; ``where`` names it in errors. Raises UnsupportedSpace."""
    try:
        return space_of(json_format.ParseDict(told, pb.Space()), where)
    except json_format.ParseError as error:
        raise UnsupportedSpace(f"{where}: {error}") from error


def spaces_digest(observation: AnySpace, action: AnySpace, mask_len: int) -> str:
    """Sha256 over what a policy and whoever acts with it must agree on, as canonical JSON."""
    told = {"observation": space_json(observation), "action": space_json(action), "mask_len": mask_len}
    return hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Codec:
    """Turns rows of one space into slabs and back. Knows nothing of ``start``: rows count from 0."""

    def __init__(self, space: AnySpace, *, action: bool = False) -> None:
        self.leaves = leaves_of(space, action=action)
        self._dict = isinstance(space, spaces.Dict)

    def encode(self, rows: Obs) -> list[bytes]:
        """One slab for each leaf of rows ``(k, *shape)``."""
        return [slab.tobytes() for slab in self.slabs(rows)]

    def slabs(self, rows: Obs) -> list[npt.NDArray[Any]]:
        """Arrays whose memory is what ``encode`` gives; not copied where they are so already."""
        if isinstance(rows, dict):
            return [np.ascontiguousarray(rows[leaf.key], leaf.dtype) for leaf in self.leaves]
        return [np.ascontiguousarray(rows, self.leaves[0].dtype)]

    def decode(self, slabs: Sequence[bytes | memoryview], count: int, *, writable: bool = True) -> Obs:
        """Rows ``(count, *shape)``, native. Raises InvalidSlab; values are not looked at.

        Args:
            writable: False: where they can be looked at in the slabs themselves, they are not copied.
        """
        if len(slabs) != len(self.leaves):
            raise InvalidSlab(f"{len(slabs)} slabs came; {len(self.leaves)} leaves were agreed")
        if not self._dict:
            return _rows(self.leaves[0], slabs[0], count, writable)
        return {leaf.key: _rows(leaf, slab, count, writable) for leaf, slab in zip(self.leaves, slabs, strict=True)}

    def fault_of(self, leaf: Leaf, slab: memoryview, first: int) -> str:
        """What is wrong with some rows of a leaf, of which the lane of the first is given; empty when nothing is."""
        count = len(slab) // leaf.row_bytes
        return _fault(leaf, _rows(leaf, slab, count, False), range(first, first + count))

    def fault(self, rows: Obs, lanes: Sequence[int]) -> str:
        """What is wrong with the values of rows, naming leaf, lane and index; empty when nothing is."""
        for leaf in self.leaves:
            values = rows[leaf.key] if isinstance(rows, dict) else rows
            found = _fault(leaf, values, lanes)
            if found:
                return found
        return ""


def _rows(leaf: Leaf, slab: bytes | memoryview, count: int, writable: bool) -> npt.NDArray[Any]:
    expected = leaf.row_bytes * count
    if len(slab) != expected:
        raise InvalidSlab(
            f"{leaf.name}: {len(slab)} bytes came; {expected} were expected "
            f"({count} lanes of {list(leaf.shape)} {leaf.dtype.name})"
        )
    rows = np.frombuffer(slab, leaf.dtype).reshape((count, *leaf.shape))
    if not leaf.dtype.isnative:
        return rows.astype(leaf.dtype.newbyteorder("="))
    return rows.copy() if writable and not rows.flags.writeable else rows


def _fault(leaf: Leaf, values: npt.NDArray[Any], lanes: Sequence[int]) -> str:
    if values.dtype.kind == "f":
        if all_finite(values):
            return ""
        return _first(leaf, values, ~np.isfinite(values), lanes, "every value must be finite")
    if isinstance(leaf.space, spaces.Discrete):
        return _first(
            leaf, values, (values < 0) | (values >= leaf.space.n), lanes, f"0 to {leaf.space.n - 1} was agreed"
        )
    if isinstance(leaf.space, spaces.MultiDiscrete):
        wrong = (values < 0) | (values >= leaf.space.nvec)
        return _first(leaf, values, wrong, lanes, f"0 to below {leaf.space.nvec.tolist()} was agreed")
    if isinstance(leaf.space, spaces.MultiBinary):
        return _first(leaf, values, values > 1, lanes, "0 or 1 was agreed")
    return ""


def _first(leaf: Leaf, values: npt.NDArray[Any], wrong: npt.NDArray[np.bool_], lanes: Sequence[int], rule: str) -> str:
    if not wrong.any():
        return ""
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    where = f"observation['{leaf.key}']" if leaf.key else "observation"
    return f"lane {lanes[index[0]]}: {where}{list(index[1:]) or ''} is {values[index]}; {rule}"
