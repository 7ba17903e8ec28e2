"""``RemoteEnv`` and ``RemoteVectorEnv``: Gymnasium environments on the other end of a connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from auxilium_rl.core.errors import ContractViolation
from auxilium_rl.remote.session import RemoteSession
from auxilium_rl.wire.rows import AnySpace, Obs, take
from auxilium_rl.wire.spaces import shifted

__all__ = ["RemoteEnv", "RemoteVectorEnv"]


class RemoteEnv(gymnasium.Env[Any, Any]):
    """A simulator with one lane as a ``gymnasium.Env``.

    It behaves as the environment would in this process: the simulator's own resets at the end of an episode are used,
    not repeated. With an action mask it has a method ``action_masks``, as sb3-contrib wants it.

    Args:
        address: ``host:port`` of a simulator that speaks ``simulation.v2``.
        timeouts: as ``RemoteSession`` has them.

    Raises:
        EnvironmentLost: nothing answers.
        SimulatorError: the simulator refuses.
        ContractViolation: it has more lanes than one.
    """

    def __init__(self, address: str, **timeouts: Any) -> None:
        self._session = RemoteSession(address, **timeouts)
        contract = self.contract = self._session.contract
        if contract.lanes != 1:
            self._session.close()
            raise ContractViolation(
                f"the simulator at {address} has {contract.lanes} lanes; RemoteVectorEnv takes many"
            )
        self.observation_space, self.action_space = contract.observation, contract.action
        self._next: Obs | None = None
        self._masks: npt.NDArray[np.bool_] | None = None

    @property
    def transport(self) -> str:
        """What carries requests now: ``fast lane`` or ``stream``."""
        return self._session.connection.transport

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode. Raises as ``LanePort.reset`` does."""
        super().reset(seed=seed)
        if seed is None and not options and self._next is not None:
            first, self._next = self._next, None
            return self._native(first), {}
        start = self._session.lanes.reset([0], [seed], options)
        self._next, self._masks = None, start.masks
        return self._native(start.observations), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance by one step. Raises as ``LanePort.step`` does."""
        space = self.action_space
        row = np.asarray(shifted(space, action, -1), space.dtype).reshape((1, *(space.shape or ())))
        transition = self._session.lanes.step(row)
        self._masks = transition.masks
        seen = transition.observations
        if transition.final is not None:
            self._next, seen = transition.observations, transition.final
        info = dict(transition.infos[0]) if transition.infos else {}
        return (
            self._native(seen),
            float(transition.rewards[0]),
            bool(transition.terminated[0]),
            bool(transition.truncated[0]),
            info,
        )

    def close(self) -> None:
        """End the session."""
        self._session.close()

    def __getattr__(self, name: str) -> Any:
        # Whoever asks whether there is a mask asks whether there is this method.
        if name == "action_masks" and self.__dict__.get("contract") is not None and self.contract.mask_len:
            return self._action_masks
        raise AttributeError(name)

    def _action_masks(self) -> npt.NDArray[np.bool_]:
        if self._masks is None:
            raise ContractViolation("reset the environment before its action mask is asked for")
        mask: npt.NDArray[np.bool_] = self._masks[0]
        return mask

    def _native(self, rows: Obs) -> Any:
        return _element(self.observation_space, shifted(self.observation_space, take(rows, 0), 1))


class RemoteVectorEnv(VectorEnv[Any, Any, Any]):
    """A simulator with any number of lanes as a ``gymnasium.vector.VectorEnv``, reset in the step of an episode's end.

    ``infos["final_obs"]`` and ``infos["final_info"]`` hold what ended episodes ended with, as Gymnasium has it.

    Args and errors as for ``RemoteEnv``.
    """

    def __init__(self, address: str, **timeouts: Any) -> None:
        self._session = RemoteSession(address, **timeouts)
        contract = self.contract = self._session.contract
        self.num_envs = contract.lanes
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.render_mode = None
        self.single_observation_space, self.single_action_space = contract.observation, contract.action
        self.observation_space = gymnasium.vector.utils.batch_space(contract.observation, self.num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(contract.action, self.num_envs)

    @property
    def transport(self) -> str:
        """What carries requests now: ``fast lane`` or ``stream``."""
        return self._session.connection.transport

    @property
    def env_seconds(self) -> float:
        """The simulator's own time so far, as it tells it."""
        return self._session.lanes.env_seconds

    @property
    def offers(self) -> tuple[str, ...]:
        """The fast lanes that the simulator offers."""
        return self._session.connection.offers

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode on every lane; an int seeds lane ``n`` with ``seed + n``."""
        if seed is None or isinstance(seed, int):
            seeds: list[int | None] = [None if seed is None else seed + lane for lane in range(self.num_envs)]
        else:
            seeds = list(seed)
        start = self._session.lanes.reset(range(self.num_envs), seeds, options)
        return self._native(start.observations), {} if start.masks is None else {"action_mask": start.masks}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Advance every lane by one step."""
        space = self.single_action_space
        rows = np.asarray(shifted(space, actions, -1), space.dtype).reshape((self.num_envs, *(space.shape or ())))
        transition = self._session.lanes.step(rows)
        infos: dict[str, Any] = {}
        for lane, info in enumerate(transition.infos):
            infos = self._add_info(infos, dict(info), lane)
        if transition.masks is not None:
            infos["action_mask"] = transition.masks
        ended = transition.terminated | transition.truncated
        if transition.final is not None:
            finals: Any = np.full(self.num_envs, None, object)
            for row, lane in enumerate(np.flatnonzero(ended).tolist()):
                finals[lane] = shifted(self.single_observation_space, take(transition.final, row), 1)
            infos["final_obs"], infos["_final_obs"] = finals, ended
        observations = self._native(transition.observations)
        return observations, transition.rewards.astype(np.float64), transition.terminated, transition.truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """End the session."""
        self._session.close()

    def _native(self, rows: Obs) -> Any:
        return shifted(self.single_observation_space, rows, 1)


def _element(space: AnySpace, value: Any) -> Any:
    """An element as the space has it: a Discrete one is a scalar."""
    if isinstance(space, spaces.Dict):
        return {key: _element(leaf, value[key]) for key, leaf in space.spaces.items()}
    if isinstance(space, spaces.Discrete):
        return np.int64(value)
    return np.asarray(value, space.dtype)
