"""Between what a simulator sends and takes, and the flat numbers of a policy's graph."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from auxilium_rl.inference.batches import ActRequest, FlatBatch
from auxilium_rl.inference.refused import Refused
from auxilium_rl.wire.rows import flat
from auxilium_rl.wire.spaces import Codec, InvalidSlab, counted_from_zero, mask_length, shifted, space_from_json

__all__ = ["PolicyCodec"]


class PolicyCodec:
    """Of one policy.

    Attributes:
        contract_hash: of its spaces.
        plain: an observation is one slab of float32, an action one number, and nothing is remembered.
        start: what that number is counted from.

    Args:
        description: ``policy.json``.
        most: rows that a request may have.
    """

    def __init__(self, description: dict[str, Any], most: int) -> None:
        self._most = most
        self.contract_hash: str = description["contract_hash"]
        self._observation = space_from_json(description["native"]["observation"], "observation")
        self._action = space_from_json(description["native"]["action"], "action")
        self._mask_len = int(description["mask_len"]) or mask_length(self._action)
        self._remembers = description.get("frame_stack", 1) > 1 or "state" in description
        self._native, self._counted = Codec(self._observation), Codec(counted_from_zero(self._observation))
        leaves = self._native.leaves
        self._one_float_leaf = len(leaves) == 1 and leaves[0].dtype == np.dtype("<f4")
        self._actions = Codec(self._action, action=True)
        # One slab of native float32 in, one number out.
        self.plain = self._one_float_leaf and not self._remembers and isinstance(self._action, spaces.Discrete)
        self.plain = self.plain and sys.byteorder == "little"
        self.start = int(self._action.start) if isinstance(self._action, spaces.Discrete) else 0

    def batch(self, request: ActRequest) -> FlatBatch:
        """The observations of a request. Raises Refused, naming the field, what was given and is accepted."""
        count = request.count or 1
        if not 1 <= count <= self._most:
            raise Refused("count", f"{request.count} given; 1 to {self._most} (ACT_MAX_BATCH) is accepted")
        if request.contract_hash and request.contract_hash != self.contract_hash:
            raise Refused(
                "contract_hash", f"'{request.contract_hash:.80}' given; the policy's is '{self.contract_hash}'"
            )
        return FlatBatch(self._rows(request, count), self._states(request, count), self._masks(request.masks, count))

    def slab(self, actions: npt.NDArray[Any]) -> bytes:
        """Actions, counted from 0, as the simulator takes them."""
        native: Any = shifted(self._action, actions, 1)
        return self._actions.encode(np.asarray(native))[0]

    def _rows(self, request: ActRequest, count: int) -> npt.NDArray[np.float32]:
        try:
            rows = self._native.decode(request.slabs, count)
        except InvalidSlab as wrong:
            raise Refused("observations", f"{wrong}; the space is {self._observation}") from None
        if self._one_float_leaf:
            values: npt.NDArray[np.float32] = rows.reshape(count, -1)  # type: ignore[union-attr]
            if np.isfinite(values.sum()):  # the sum of finite numbers may overflow, so this is but the fast way
                return values
        counted: Any = shifted(self._observation, rows, -1)
        fault = self._counted.fault(counted, range(count))
        if fault:
            raise Refused("observations", fault.replace("lane", "row", 1))
        return flat(counted, count, [leaf.key for leaf in self._native.leaves])

    def _states(self, request: ActRequest, count: int) -> list[bytes]:
        states = list(request.states)
        if not self._remembers:
            if states:
                raise Refused("states", f"{len(states)} given; this policy remembers nothing")
            return []
        if len(states) != count:
            raise Refused(
                "states",
                f"{len(states) or 'none'} given; this policy remembers: one for each of {count} rows is accepted, "
                "of the answer before, empty where an episode begins",
            )
        return states

    def _masks(self, data: bytes, count: int) -> npt.NDArray[np.bool_] | None:
        if not data:
            return None
        if not self._mask_len or len(data) != count * self._mask_len:
            accepted = (
                f"none or {count} x {self._mask_len} are accepted" if self._mask_len else "this policy takes none"
            )
            raise Refused("action_masks", f"{len(data)} bytes given; {accepted}")
        masks: npt.NDArray[np.bool_] = np.frombuffer(data, np.uint8).reshape(count, self._mask_len) != 0
        return masks
