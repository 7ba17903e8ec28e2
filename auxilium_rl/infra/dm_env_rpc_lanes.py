"""Simulators behind DeepMind's dm_env_rpc protocol, as Gymnasium environments."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

import grpc
import gymnasium
import numpy as np
import numpy.typing as npt
from dm_env import StepType, specs
from dm_env_rpc.v1 import connection as rpc
from dm_env_rpc.v1 import dm_env_adaptor, error
from gymnasium import spaces

from auxilium_rl.core.errors import ContractViolation, EnvironmentLost, SimulatorError
from auxilium_rl.wire.rows import AnySpace

__all__ = ["DmEnvRpc"]

_T = TypeVar("_T")


class DmEnvRpc(gymnasium.Env[Any, Any]):
    """One world of a dm_env_rpc server, made and joined with no settings.

    One observation becomes a Box, several a Dict; ``reward`` and ``discount`` are taken as what they are called. One
    integer action becomes Discrete, several MultiDiscrete, floats one Box in the order of their names. A last step with
    discount 0 terminates, with another it truncates. The protocol knows no seeds.

    Args:
        connect_timeout, step_timeout, reset_timeout: seconds.

    Raises:
        EnvironmentLost: nothing answers.
        SimulatorError: the server refuses a world.
        ContractViolation: its specifications cannot be trained on.
    """

    def __init__(
        self, address: str, channel: grpc.Channel, *, connect_timeout: float, step_timeout: float, reset_timeout: float
    ) -> None:
        self._address, self._step_timeout, self._reset_timeout = address, step_timeout, reset_timeout
        # The library waits without end; a thread of our own lets us stop waiting.
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dm-env-rpc")
        self._connection = rpc.Connection(channel)
        self._env: Any = None
        self._env = self._within(connect_timeout, "a world", self._join)
        self.observation_space, self._observed = _observations_of(self._env.observation_spec())
        self.action_space, self._actions = _actions_of(self._env.action_spec())

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; a seed changes nothing at the server."""
        super().reset(seed=seed)
        step = self._within(self._reset_timeout, "Reset", self._env.reset)
        return self._observed(step.observation), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance by one step."""
        step = self._within(self._step_timeout, "Step", lambda: self._env.step(self._actions(action)))
        if step.step_type == StepType.FIRST:
            raise ContractViolation(f"the dm_env_rpc server at {self._address} began an episode without being asked")
        last = step.step_type == StepType.LAST
        terminated = last and not np.any(step.discount)
        return self._observed(step.observation), float(step.reward or 0.0), terminated, last and not terminated, {}

    def close(self) -> None:
        """Leave the world and hang up."""
        with contextlib.suppress(SimulatorError):
            if self._env is not None:
                self._within(5.0, "LeaveWorld", self._env.close)
        self._connection.close()
        self._pool.shutdown(wait=False)

    def _join(self) -> Any:
        env, _ = dm_env_adaptor.create_and_join_world(self._connection, {}, {})
        return env

    def _within(self, seconds: float, what: str, action: Callable[[], _T]) -> _T:
        try:
            return self._pool.submit(action).result(timeout=seconds)
        except FutureTimeoutError:
            self._connection.close()
            raise EnvironmentLost(
                f"the dm_env_rpc server at {self._address} did not answer {what} within {seconds:g} s"
            ) from None
        except grpc.RpcError as failure:
            raise EnvironmentLost(f"the dm_env_rpc server at {self._address} was lost: {failure}") from failure
        except (error.DmEnvRpcError, RuntimeError, ValueError) as failure:
            raise SimulatorError(
                f"the dm_env_rpc server at {self._address} answered {what} with: {failure}"
            ) from failure


def _observations_of(spec: Mapping[str, Any]) -> tuple[AnySpace, Callable[[Mapping[str, Any]], Any]]:
    """The space of what is observed, and from what comes to an element of it."""
    named = {key: value for key, value in spec.items() if key not in {"reward", "discount"}}
    leaves = {key: _box(f"observation '{key}'", value) for key, value in named.items()}
    if not leaves:
        raise ContractViolation("the dm_env_rpc server offers no observation but reward and discount")
    shapes = {key: (leaf.shape, leaf.dtype) for key, leaf in leaves.items()}

    def element(key: str, values: Mapping[str, Any]) -> npt.NDArray[Any]:
        shape, dtype = shapes[key]
        return np.asarray(values[key], dtype).reshape(shape)

    if len(leaves) == 1:
        (key, only), *_ = leaves.items()
        return only, lambda values: element(key, values)
    return spaces.Dict(list(leaves.items())), lambda values: {key: element(key, values) for key in leaves}


def _box(what: str, spec: Any) -> spaces.Box:
    if isinstance(spec, specs.StringArray) or np.dtype(spec.dtype).kind not in "fiub":
        raise ContractViolation(f"{what} holds {spec.dtype}; numbers are accepted")
    if any(size is None or size < 0 for size in spec.shape):
        raise ContractViolation(f"{what} has the shape {spec.shape}; one that is fixed is accepted")
    dtype = np.dtype(spec.dtype)
    kept = dtype if dtype.name in {"uint8", "int8", "int16", "int32", "int64", "float32"} else np.dtype(np.float32)
    low, high = _bounds(spec, kept)
    shape = spec.shape or (1,)
    return spaces.Box(np.broadcast_to(low, shape), np.broadcast_to(high, shape), shape, kept.type)


def _bounds(spec: Any, dtype: np.dtype[Any]) -> tuple[Any, Any]:
    if isinstance(spec, specs.BoundedArray):
        return np.asarray(spec.minimum, dtype), np.asarray(spec.maximum, dtype)
    if dtype.kind == "f":
        return dtype.type(-np.inf), dtype.type(np.inf)
    limits = np.iinfo(dtype)
    return dtype.type(limits.min), dtype.type(limits.max)


def _actions_of(spec: Mapping[str, Any]) -> tuple[AnySpace, Callable[[Any], dict[str, Any]]]:
    """The action space, and from an action to what is sent."""
    whole = {key: value for key, value in spec.items() if np.dtype(value.dtype).kind in "iu"}
    if spec and len(whole) == len(spec):
        return _whole_actions(spec)
    if spec and not whole:
        return _float_actions(spec)
    raise ContractViolation(f"the dm_env_rpc server takes the actions {dict(spec)}; all integers or all floats are")


def _whole_actions(spec: Mapping[str, Any]) -> tuple[AnySpace, Callable[[Any], dict[str, Any]]]:
    for key, value in spec.items():
        if not isinstance(value, specs.BoundedArray) or int(np.prod(value.shape)) != 1:
            raise ContractViolation(f"action '{key}' is {value}; a single integer with bounds is accepted")
    lows = [int(np.min(value.minimum)) for value in spec.values()]
    counts = [int(np.max(value.maximum)) - low + 1 for value, low in zip(spec.values(), lows, strict=True)]

    def sent(values: Any) -> dict[str, Any]:
        numbers = np.asarray(values).reshape(-1)
        return {
            key: np.full(value.shape, number, value.dtype)
            for (key, value), number in zip(spec.items(), numbers, strict=True)
        }

    if len(counts) == 1:
        return spaces.Discrete(counts[0], start=lows[0]), sent
    return spaces.MultiDiscrete(counts, start=lows), sent


def _float_actions(spec: Mapping[str, Any]) -> tuple[AnySpace, Callable[[Any], dict[str, Any]]]:
    sizes = [int(np.prod(value.shape)) for value in spec.values()]
    bounds = [_bounds(value, np.dtype(np.float32)) for value in spec.values()]
    low, high = (
        np.concatenate([np.broadcast_to(bound[side].ravel(), size) for bound, size in zip(bounds, sizes, strict=True)])
        for side in (0, 1)
    )
    ends = np.cumsum(sizes)[:-1]

    def sent(values: Any) -> dict[str, Any]:
        parts = np.split(np.asarray(values), ends)
        return {
            key: part.astype(value.dtype).reshape(value.shape)
            for (key, value), part in zip(spec.items(), parts, strict=True)
        }

    return spaces.Box(low, high, dtype=np.float32), sent
