"""The contract of ``simulation.v2``: what a simulator says of itself before the first step."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from gymnasium import spaces

from auxilium_rl.wire.generation import GENERATION
from auxilium_rl.wire.rows import AnySpace
from auxilium_rl.wire.spaces import UnsupportedSpace, mask_length, space_message, space_of
from generated.simulation.v2 import simulation_pb2 as pb

__all__ = ["DISABLED", "GENERATION", "NEXT_STEP", "SAME_STEP", "Contract", "ContractRefused"]

SAME_STEP, NEXT_STEP, DISABLED = "SAME_STEP", "NEXT_STEP", "DISABLED"
_MODES = {
    pb.AUTORESET_MODE_SAME_STEP: SAME_STEP,
    pb.AUTORESET_MODE_NEXT_STEP: NEXT_STEP,
    pb.AUTORESET_MODE_DISABLED: DISABLED,
}
_MODE_NUMBERS = {name: number for number, name in _MODES.items()}
_MAX_LANES = 4096


class ContractRefused(ValueError):
    """A contract that cannot be trained on; says which part, what was given and what is accepted."""


@dataclass(frozen=True)
class Contract:
    """What trainer and simulator agree on.

    Attributes:
        observation, action: spaces as the simulator has them, ``start`` included.
        autoreset: SAME_STEP, NEXT_STEP or DISABLED, as Gymnasium's vector environments have them.
        mask_len: length of the action mask; 0: there is none.
        max_episode_steps: 0: no limit is known.
        deterministic: the same seeds and actions give the same transitions.
        capabilities: what both sides can.
    """

    env_id: str
    observation: AnySpace
    action: AnySpace
    lanes: int
    autoreset: str = SAME_STEP
    mask_len: int = 0
    max_episode_steps: int = 0
    deterministic: bool = False
    capabilities: tuple[str, ...] = ()
    component: str = ""
    version: str = ""
    language: str = ""

    def __str__(self) -> str:
        return (
            f"{self.env_id or 'an environment'} with observation {self.observation}, action {self.action}, "
            f"{self.lanes} lanes, autoreset {self.autoreset}, mask_len {self.mask_len}"
        )

    def to_message(self) -> pb.Contract:
        """The message, without what belongs to a session. Raises UnsupportedSpace."""
        return pb.Contract(
            generation=GENERATION,
            capabilities=self.capabilities,
            component=self.component,
            version=self.version,
            language=self.language,
            env_id=self.env_id,
            observation=space_message(self.observation),
            action=space_message(self.action),
            lanes=self.lanes,
            autoreset=_MODE_NUMBERS[self.autoreset],
            mask_len=self.mask_len,
            max_episode_steps=self.max_episode_steps,
            deterministic=self.deterministic,
        )

    @classmethod
    def from_message(cls, message: pb.Contract) -> Contract:
        """Read and check a simulator's contract. Raises ContractRefused."""
        if message.generation != GENERATION:
            raise ContractRefused(
                f"the simulator speaks generation '{message.generation:.40}'; this trainer speaks '{GENERATION}'"
            )
        if message.autoreset not in _MODES:
            raise ContractRefused(f"autoreset: {message.autoreset} given; {', '.join(_MODES.values())} are accepted")
        if not 1 <= message.lanes <= _MAX_LANES:
            raise ContractRefused(f"lanes: {message.lanes} given; 1 to {_MAX_LANES} are accepted")
        try:
            observation = space_of(message.observation, "observation")
            action = space_of(message.action, "action")
        except UnsupportedSpace as refused:
            raise ContractRefused(str(refused)) from refused
        contract = cls(
            message.env_id,
            observation,
            action,
            message.lanes,
            _MODES[message.autoreset],
            message.mask_len,
            message.max_episode_steps,
            message.deterministic,
            tuple(message.capabilities),
            message.component,
            message.version,
            message.language,
        )
        contract._check()
        return contract

    def _check(self) -> None:
        if isinstance(self.action, spaces.Dict):
            raise ContractRefused("action: a Dict was given; Box, Discrete, MultiDiscrete and MultiBinary are accepted")
        expected = mask_length(self.action)
        if self.mask_len and self.mask_len != expected:
            raise ContractRefused(
                f"mask_len: {self.mask_len} given; "
                + (f"{expected} or 0 are accepted for {self.action}" if expected else f"{self.action} takes no mask")
            )
        if self.autoreset == NEXT_STEP and "partial_reset" not in self.capabilities:
            raise ContractRefused(
                "autoreset: NEXT_STEP given without the capability partial_reset; "
                "it is accepted from simulators that can step some of their lanes"
            )

    def shape(self) -> dict[str, Any]:
        """What must not change while a run lasts, as JSON values: spaces, lanes, autoreset and mask length."""
        return {
            "observation": _space_json(self.observation),
            "action": _space_json(self.action),
            "lanes": self.lanes,
            "autoreset": self.autoreset,
            "mask_len": self.mask_len,
        }

    def fits(self, other: Contract) -> bool:
        """Whether both can take part in one run: all the same but for the number of lanes and the autoreset mode."""
        mine, theirs = self.shape(), other.shape()
        return all(mine[part] == theirs[part] for part in ("observation", "action", "mask_len"))

    def digest(self) -> str:
        """Sha256 over the canonical JSON of ``shape``."""
        return hashlib.sha256(json.dumps(self.shape(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _space_json(space: AnySpace) -> Any:
    if isinstance(space, spaces.Dict):
        return {"dict": [[key, _space_json(leaf)] for key, leaf in space.spaces.items()]}
    message = space_message(space)
    kind = message.WhichOneof("kind")
    told: dict[str, Any] = {"kind": kind, "shape": list(message.shape), "dtype": str(space.dtype)}
    if kind == "box":
        told |= {"low": message.box.low.hex(), "high": message.box.high.hex()}
    elif kind == "discrete":
        told |= {"n": message.discrete.n, "start": message.discrete.start}
    elif kind == "multi_discrete":
        told |= {"nvec": list(message.multi_discrete.nvec), "start": list(message.multi_discrete.start)}
    return told
