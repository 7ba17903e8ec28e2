"""Observations and actions of one policy as they travel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from auxilium_rl.wire.rows import stack
from auxilium_rl.wire.spaces import Codec, space_from_json
from generated.auxilium.v1 import policies_pb2 as pb

__all__ = ["PolicyEncoding"]


class PolicyEncoding:
    """Knows a policy's spaces, as its environment has them.

    Attributes:
        remembers: whether it takes and gives a state.
    """

    def __init__(self, description: Mapping[str, Any]) -> None:
        self.observation = space_from_json(description["native"]["observation"], "observation")
        self.action = space_from_json(description["native"]["action"], "action")
        self.contract_hash: str = description["contract_hash"]
        self.remembers = description.get("frame_stack", 1) > 1 or "state" in description
        self._observations, self._actions = Codec(self.observation), Codec(self.action, action=True)

    def request(
        self, observations: Sequence[Any], masks: Any, deterministic: bool, states: Sequence[bytes]
    ) -> pb.ActRequest:
        """The message. Raises ValueError or TypeError for what is no observation."""
        rows = stack(observations, self.observation)
        legal = b"" if masks is None else np.ascontiguousarray(masks, bool).tobytes()
        return pb.ActRequest(
            count=len(observations),
            observations=pb.Rows(slabs=self._observations.encode(rows)),
            action_masks=legal,
            deterministic=deterministic,
            states=states,
            contract_hash=self.contract_hash,
        )

    def actions(self, rows: pb.Rows, count: int) -> Any:
        """Actions ``(count, *shape)`` in the space's dtype; plain numbers where they are single numbers."""
        actions: Any = self._actions.decode(rows.slabs, count)
        if isinstance(self.action, spaces.Discrete):
            return [int(action) for action in actions]
        return actions.astype(self.action.dtype)
