"""A learner goes on with another number of lanes. Only workers import this.

Stable-Baselines3 fixes the number of environments when a model is made. So another model is made, and everything that
the first one knew moves over: weights, optimizers, normalisation, experience, counters, random streams.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.save_util import recursive_getattr, recursive_setattr

from auxilium_rl.core.learner_state import COUNTERS

__all__ = ["move_experience", "pending_timesteps", "transplanted"]


def pending_timesteps(model: BaseAlgorithm) -> int:
    """Timesteps of the rollout under way, which cannot be learned from: an on-policy rollout is dense."""
    buffer: Any = getattr(model, "rollout_buffer", None)
    if buffer is None or not isinstance(model, OnPolicyAlgorithm):
        return 0
    return 0 if buffer.full else int(buffer.pos * buffer.n_envs)


def transplanted(old: BaseAlgorithm, build: Callable[[], BaseAlgorithm]) -> BaseAlgorithm:
    """A model that ``build`` makes on the lanes of now, with what ``old`` had learned."""
    streams = random.getstate(), np.random.get_state(), torch.get_rng_state()
    new = build()
    parameters: Any = old.get_parameters()
    new.set_parameters(parameters, exact_match=True)
    for name in old._get_torch_save_params()[1]:  # such as SAC's entropy coefficient
        recursive_setattr(new, f"{name}.data", recursive_getattr(old, name).data.clone())
    random.setstate(streams[0])
    np.random.set_state(streams[1])
    torch.set_rng_state(streams[2])
    for name in COUNTERS:
        if hasattr(old, name):
            setattr(new, name, getattr(old, name))
    new.ep_info_buffer, new.ep_success_buffer = old.ep_info_buffer, old.ep_success_buffer
    new.start_time = old.start_time
    _move_normalisation(old, new)
    source: ReplayBuffer | None = getattr(old, "replay_buffer", None)
    if source is not None:
        target: Any = getattr(new, "replay_buffer")  # noqa: B009 - off-policy algorithms' alone
        move_experience(source, target)
    return new


def _move_normalisation(old: BaseAlgorithm, new: BaseAlgorithm) -> None:
    before, after = old.get_vec_normalize_env(), new.get_vec_normalize_env()
    if before is not None and after is not None:
        after.ret_rms = before.ret_rms
        if hasattr(before, "obs_rms"):
            after.obs_rms = before.obs_rms


def move_experience(source: ReplayBuffer, target: ReplayBuffer) -> None:
    """Fill an empty buffer, perhaps of another number of lanes.

    Buffers hold (time, lane): the newest transitions are laid out again for the new number of lanes. Where targets sum
    rewards over steps, neighbours in time matter, so only whole lanes can move.
    """
    rows = source.buffer_size if source.full else source.pos
    order = np.roll(np.arange(source.buffer_size), -source.pos)[-rows:] if source.full else np.arange(rows)
    plain = type(source) in (ReplayBuffer, DictReplayBuffer)
    count = min(rows * source.n_envs // target.n_envs, target.buffer_size) if plain else min(rows, target.buffer_size)

    def moved(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if not plain:
            return values[order][-count:, : target.n_envs]
        flat = values[order].reshape(rows * source.n_envs, *values.shape[2:])
        return flat[len(flat) - count * target.n_envs :].reshape(count, target.n_envs, *values.shape[2:])

    kept = [name for name in ("episodes", "steps") if hasattr(source, name)]
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts", *kept):
        before, after = getattr(source, name), getattr(target, name)
        for part, into in (
            [(before[key], after[key]) for key in before] if isinstance(before, dict) else [(before, after)]
        ):
            into[:count] = moved(part)
    target.pos, target.full = count % target.buffer_size, count == target.buffer_size
