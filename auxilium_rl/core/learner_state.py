"""Everything that decides how learning goes on, taken from one model and given to another. Only workers import this.

Weights, optimizers and an entropy coefficient travel in Stable-Baselines3's own ``model.zip``; of it only tensors are
read. The rest is what its ``save`` leaves out or pickles: counters, random streams, what was seen last, environments.
"""

from __future__ import annotations

import io
import random
from collections import deque
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file, recursive_setattr
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize, unwrap_vec_wrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvWrapper

from auxilium_rl.core.experience.sharded import local_replay
from auxilium_rl.core.vec_env import RemoteVecEnv

__all__ = [
    "COUNTERS",
    "captured",
    "put_back_knowledge",
    "put_back_moment",
    "put_back_normalisation",
    "read_parameters",
    "read_weights",
    "streams",
]

COUNTERS = (
    "num_timesteps",
    "_n_updates",
    "_episode_num",
    "_n_calls",
    "_current_progress_remaining",
    "exploration_rate",
)
"""Attributes of an algorithm that count, and what follows from counting."""
_SEEN = ("_last_obs", "_last_original_obs", "_last_episode_starts")


def captured(model: BaseAlgorithm, *, environments: bool) -> dict[str, Any]:
    """The state of a model at a learning boundary, without its parameters and its replay buffer; ``pack`` takes it.

    Where the environments' state is not wanted or cannot be taken, learning goes on with new episodes.
    """
    return {
        "format_version": 1,
        "algorithm": type(model).__mro__[1].__name__,
        "counters": {name: _python(getattr(model, name)) for name in COUNTERS if hasattr(model, name)},
        "episodes": list(model.ep_info_buffer or ()),
        "successes": [float(value) for value in model.ep_success_buffer or ()],
        "normalisation": _normalisation(model),
        "replay": local_replay(model) is not None,
        "log": _log(model),
        "moment": _moment(model, environments=environments),
    }


def read_parameters(model: BaseAlgorithm, model_zip: bytes) -> None:
    """Give a model the weights and optimizers of a ``model.zip``. Nothing in it is unpickled. Raises ValueError."""
    archive: Any = io.BytesIO(model_zip)
    _, parameters, variables = load_from_zip_file(archive, load_data=False, device="cpu")
    model.set_parameters(parameters, exact_match=True, device="cpu")
    for name, value in (variables or {}).items():
        recursive_setattr(model, f"{name}.data", value.data)


def read_weights(model: BaseAlgorithm, model_zip: bytes) -> None:
    """Give a model the weights of a ``model.zip``; optimizers and entropy coefficient stay new. Raises ValueError."""
    archive: Any = io.BytesIO(model_zip)
    _, parameters, _ = load_from_zip_file(archive, load_data=False, device="cpu")
    optimizers = {name for name in parameters if name.endswith("optimizer")}
    own: Any = model.get_parameters()
    model.set_parameters({**parameters, **{name: own[name] for name in optimizers}}, exact_match=True, device="cpu")


def put_back_knowledge(model: BaseAlgorithm, state: dict[str, Any]) -> None:
    """Give a new model what does not depend on its environments: counters, statistics, normalisation."""
    for name, value in state["counters"].items():
        setattr(model, name, value)
    window = model._stats_window_size
    model.ep_info_buffer = deque(state["episodes"], maxlen=window)
    model.ep_success_buffer = deque(state["successes"], maxlen=window)
    put_back_normalisation(model, state)


def put_back_normalisation(model: BaseAlgorithm, state: dict[str, Any]) -> None:
    """Give a new model's ``VecNormalize``, if it has one, what was counted."""
    scaling = model.get_vec_normalize_env()
    if scaling is not None:
        for name, kept in state["normalisation"].items():
            target = scaling.ret_rms if name == "returns" else _observed(scaling)[name.removeprefix("observed ")]
            target.mean, target.var, target.count = kept["mean"], kept["var"], kept["count"]


def put_back_moment(model: BaseAlgorithm, state: dict[str, Any]) -> bool:
    """Bring environments, random streams and the logger to where they were. The last thing before ``learn()``.

    False: the environments' state was not taken; the random streams are put back, and new episodes begin.
    """
    for key, (value, count, excluded) in state["log"].items():
        model.logger.name_to_value[key], model.logger.name_to_count[key] = value, count
        model.logger.name_to_excluded[key] = excluded
    moment = state["moment"]
    random.setstate(moment["random"]["python"])
    np.random.set_state(moment["random"]["numpy"])
    torch.set_rng_state(torch.from_numpy(moment["random"]["torch"]))
    model.action_space.np_random.bit_generator.state = moment["random"]["actions"]
    if moment["environments"] is None:
        return False
    env = model.get_env()
    assert env is not None
    _put_back_environments(env, moment["environments"])
    for name, value in moment["seen"].items():
        setattr(model, name, value)
    if moment["memory"] is not None:
        states: Any = getattr(model, "_last_lstm_states")  # noqa: B009 - RecurrentPPO's alone
        pair = [torch.from_numpy(part) for part in moment["memory"]]
        setattr(model, "_last_lstm_states", type(states)((pair[0], pair[1]), (pair[2], pair[3])))  # noqa: B010
    return True


def streams() -> dict[str, Any]:
    """The process's random streams as they are now."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state().numpy(),
    }


def _moment(model: BaseAlgorithm, *, environments: bool) -> dict[str, Any]:
    env = model.get_env()
    assert env is not None
    memory: Any = getattr(model, "_last_lstm_states", None)
    return {
        "random": {**streams(), "actions": model.action_space.np_random.bit_generator.state},
        "environments": _environments(env) if environments else None,
        "seen": {name: getattr(model, name) for name in _SEEN},
        "memory": None if memory is None else [part.numpy() for pair in (memory.pi, memory.vf) for part in pair],
    }


def _log(model: BaseAlgorithm) -> dict[str, tuple[Any, int, tuple[str, ...]]]:
    """What was recorded and is written with the next rollout."""
    logger = model.logger
    return {
        key: (_python(value), logger.name_to_count[key], tuple(logger.name_to_excluded[key]))
        for key, value in logger.name_to_value.items()
        if isinstance(value, (bool, int, float, np.number))
    }


def _python(value: Any) -> Any:
    """A NumPy scalar as a number of Python."""
    return value.item() if isinstance(value, np.generic) else value


def _normalisation(model: BaseAlgorithm) -> dict[str, Any]:
    scaling = model.get_vec_normalize_env()
    if scaling is None:
        return {}
    found = {"returns": scaling.ret_rms, **{f"observed {key}": rms for key, rms in _observed(scaling).items()}}
    return {name: {"mean": rms.mean, "var": rms.var, "count": rms.count} for name, rms in found.items()}


def _observed(scaling: VecNormalize) -> dict[str, Any]:
    rms: Any = getattr(scaling, "obs_rms", None)
    return rms if isinstance(rms, dict) else {} if rms is None else {"": rms}


def _environments(env: VecEnv) -> dict[str, Any] | None:
    """What every layer around the lanes holds, the lanes included."""
    lanes = _lanes_of(env).captured()
    if lanes is None:
        return None
    kept: dict[str, Any] = {"lanes": lanes}
    scaling, stack = unwrap_vec_wrapper(env, VecNormalize), unwrap_vec_wrapper(env, VecFrameStack)
    if isinstance(scaling, VecNormalize):
        kept["discounted"] = scaling.returns.copy()
    if isinstance(stack, VecFrameStack):
        kept["frames"] = {key: part.stacked_obs.copy() for key, part in _stacks(stack).items()}
    return kept


def _put_back_environments(env: VecEnv, kept: dict[str, Any]) -> None:
    _lanes_of(env).put_back(kept["lanes"])
    scaling, stack = unwrap_vec_wrapper(env, VecNormalize), unwrap_vec_wrapper(env, VecFrameStack)
    if isinstance(scaling, VecNormalize):
        scaling.returns = kept["discounted"]
    if isinstance(stack, VecFrameStack):
        for key, part in _stacks(stack).items():
            part.stacked_obs[:] = kept["frames"][key]


def _stacks(stack: VecFrameStack) -> dict[str, Any]:
    stacked: Any = stack.stacked_obs
    return getattr(stacked, "sub_stacked_observations", None) or {"": stacked}


def _lanes_of(env: VecEnv) -> RemoteVecEnv:
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    assert isinstance(env, RemoteVecEnv)
    return env
