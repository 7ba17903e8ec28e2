"""The tensors of the Open Inference Protocol, and how they are those of a policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from auxilium_rl.core.errors import InvalidRequest
from auxilium_rl.wire.spaces import leaves_of, mask_length, space_from_json
from generated.inference import open_inference_pb2 as pb

__all__ = ["PolicyTensors", "Tensor", "floats", "given_tensors", "put_tensor"]

_DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float32": "FP32",
    "float64": "FP64",
}
_DTYPES = {datatype: name for name, datatype in _DATATYPES.items()}
_CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


@dataclass(frozen=True)
class Tensor:
    """Name, datatype and shape of one row. ``optional``: a request may leave it out, an answer has it on demand."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False

    @property
    def number(self) -> pb.DataType.ValueType:
        """The datatype as a model's configuration has it."""
        return pb.DataType.Value(f"TYPE_{'STRING' if self.datatype == 'BYTES' else self.datatype}")


class PolicyTensors:
    """Inputs and outputs of one policy.

    Inputs are the leaves of an observation, ``observation`` where there is but one; ``action_mask`` and ``state`` where
    the policy takes them. Outputs are ``action``; ``state``; on demand ``value``, ``log_prob``, ``probabilities``.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        observation = space_from_json(description["native"]["observation"], "observation")
        action = space_from_json(description["native"]["action"], "action")
        self.leaves = [
            Tensor(leaf.key or "observation", _DATATYPES[leaf.dtype.newbyteorder("=").name], leaf.shape)
            for leaf in leaves_of(observation)
        ]
        (chosen,) = leaves_of(action, action=True)
        choices = int(description["mask_len"]) or mask_length(action)
        remembers = description.get("frame_stack", 1) > 1 or "state" in description
        self.inputs = [*self.leaves]
        self.action = Tensor("action", _DATATYPES[chosen.dtype.newbyteorder("=").name], chosen.shape)
        self.outputs = [self.action]
        if choices:
            self.inputs.append(Tensor("action_mask", "BOOL", (choices,), optional=True))
        if remembers:
            self.inputs.append(Tensor("state", "BYTES", (1,)))
            self.outputs.append(Tensor("state", "BYTES", (1,)))
        distribution = description.get("distribution", "none")
        if distribution in {"categorical", "bernoulli", "gaussian", "squashed_gaussian"}:
            self.outputs.append(Tensor("log_prob", "FP32", (), optional=True))
        if distribution in {"categorical", "bernoulli"}:
            self.outputs.append(Tensor("probabilities", "FP32", (choices,), optional=True))
        if description.get("critic"):
            self.outputs.append(Tensor("value", "FP32", (), optional=True))


def given_tensors(request: pb.ModelInferRequest, accepted: Sequence[Tensor]) -> tuple[int, dict[str, Any]]:
    """How many rows a request has, and its tensors: bytes in C order, or the list of rows of BYTES.

    Raises:
        InvalidRequest: names the tensor, what was given and what is accepted.
    """
    known = {tensor.name: tensor for tensor in accepted}
    found: dict[str, Any] = {}
    counts: set[int] = set()
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequest.of("raw_input_contents", f"{len(raw)} given for {len(request.inputs)} inputs")
    for number, given in enumerate(request.inputs):
        tensor = known.get(given.name)
        if tensor is None:
            raise InvalidRequest.of("inputs", f"'{given.name:.80}' given; {', '.join(known)} are accepted")
        counts.add(_checked(given, tensor))
        data = raw[number] if raw else _contents(given)
        found[given.name] = _rows_of_bytes(data, tensor, given) if tensor.datatype == "BYTES" else _sized(data, given)
    missing = [tensor.name for tensor in accepted if not tensor.optional and tensor.name not in found]
    if missing:
        raise InvalidRequest.of("inputs", f"{', '.join(missing)} missing; {', '.join(known)} are accepted")
    if len(counts) != 1:
        raise InvalidRequest.of("inputs", f"tensors of {sorted(counts)} rows given; all must have as many")
    return counts.pop(), found


def _checked(given: pb.ModelInferRequest.InferInputTensor, tensor: Tensor) -> int:
    shape = tuple(given.shape)
    if given.datatype != tensor.datatype:
        raise InvalidRequest.of(
            f"inputs['{tensor.name}'].datatype", f"'{given.datatype:.40}' given; {tensor.datatype} is accepted"
        )
    if len(shape) != len(tensor.shape) + 1 or shape[1:] != tensor.shape or shape[0] < 1:
        accepted = ["rows", *tensor.shape]
        raise InvalidRequest.of(f"inputs['{tensor.name}'].shape", f"{list(shape)} given; {accepted} is accepted")
    return shape[0]


def _contents(given: pb.ModelInferRequest.InferInputTensor) -> Any:
    values = getattr(given.contents, _CONTENTS[given.datatype])
    if given.datatype == "BYTES":
        return list(values)
    return np.array(values, np.dtype(_DTYPES[given.datatype]).newbyteorder("<")).tobytes()


def _sized(data: bytes, given: pb.ModelInferRequest.InferInputTensor) -> bytes:
    expected = int(np.prod(given.shape, dtype=np.int64)) * np.dtype(_DTYPES[given.datatype]).itemsize
    if len(data) != expected:
        raise InvalidRequest.of(
            f"inputs['{given.name}']", f"{len(data)} bytes given; {expected} are accepted for {list(given.shape)}"
        )
    return data


def _rows_of_bytes(data: Any, tensor: Tensor, given: pb.ModelInferRequest.InferInputTensor) -> list[bytes]:
    """BYTES travel raw as a length (uint32, little endian) and as many bytes, again and again."""
    rows = data if isinstance(data, list) else _split(data, tensor.name)
    if len(rows) != given.shape[0]:
        wanted = given.shape[0]
        raise InvalidRequest.of(f"inputs['{tensor.name}']", f"{len(rows)} elements given; {wanted} are accepted")
    return rows


def _split(data: bytes, name: str) -> list[bytes]:
    rows, start = [], 0
    while start < len(data):
        length = int.from_bytes(data[start : start + 4], "little")
        start += 4
        if start + length > len(data):
            raise InvalidRequest.of(f"inputs['{name}']", "the lengths of its elements do not fit its bytes")
        rows.append(data[start : start + length])
        start += length
    return rows


def put_tensor(answer: pb.ModelInferResponse, tensor: Tensor, count: int, data: bytes | Sequence[bytes]) -> None:
    """Add an output to an answer."""
    answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=[count, *tensor.shape])
    if not isinstance(data, bytes):
        data = b"".join(len(row).to_bytes(4, "little") + row for row in data)
    answer.raw_output_contents.append(data)


def floats(values: npt.NDArray[np.float32]) -> bytes:
    """FP32 as it travels."""
    return values.astype("<f4").tobytes()
