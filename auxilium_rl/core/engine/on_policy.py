"""What PPO and A2C share: collecting rollouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from auxilium_rl.core.engine.flat import FlatOptimizer, flatten
from auxilium_rl.core.engine.network import HandNetwork, log_softmax, sample

__all__ = ["ActorCritic", "FastOnPolicy", "returns_and_advantages"]


@dataclass(frozen=True)
class ActorCritic:
    """Both networks of a policy and the optimizer of their parameters."""

    actor: HandNetwork
    critic: HandNetwork
    optimizer: FlatOptimizer

    @staticmethod
    def of(policy: ActorCriticPolicy) -> ActorCritic:
        """Take a policy over: its optimizer becomes flat, its modules stay usable."""
        optimizer = flatten(policy.optimizer)
        extractor = policy.mlp_extractor
        actor = HandNetwork([*extractor.policy_net, policy.action_net])
        return ActorCritic(actor, HandNetwork([*extractor.value_net, policy.value_net]), optimizer)


class FastOnPolicy(OnPolicyAlgorithm):
    """A mixin that collects rollouts as ``OnPolicyAlgorithm`` does, with the networks computed by hand."""

    fast: ActorCritic

    def _excluded_save_params(self) -> list[str]:
        # What is left in ``__dict__`` would be pickled into every zip.
        return [*super()._excluded_save_params(), "fast"]

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """As in SB3; the names of local variables are part of the interface, callbacks see them."""
        assert self._last_obs is not None
        actor, critic = self.fast.actor, self.fast.critic
        n_steps = 0
        rollout_buffer.reset()
        callback.on_rollout_start()
        while n_steps < n_rollout_steps:
            obs_tensor = torch.as_tensor(self._last_obs).float()
            logits = log_softmax(actor(obs_tensor))
            chosen = sample(logits)
            actions = clipped_actions = chosen.numpy().reshape(-1)
            env.step_async(clipped_actions)
            # What the actions do not depend on is done while the lanes step.
            values, log_probs = critic(obs_tensor), logits.gather(1, chosen).view(-1)
            pos = rollout_buffer.pos
            rollout_buffer.observations[pos] = self._last_obs
            rollout_buffer.actions[pos] = actions.reshape(-1, 1)
            rollout_buffer.episode_starts[pos] = self._last_episode_starts
            rollout_buffer.values[pos] = values.numpy().reshape(-1)
            rollout_buffer.log_probs[pos] = log_probs.numpy()
            new_obs, rewards, dones, infos = env.step_wait()
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)
            n_steps += 1
            if dones.any():
                self._bootstrap(rewards, dones, infos)
            rollout_buffer.rewards[pos] = rewards
            rollout_buffer.pos = pos + 1
            self._last_obs = new_obs  # type: ignore[assignment]
            self._last_episode_starts = dones
        rollout_buffer.full = rollout_buffer.pos == rollout_buffer.buffer_size
        if not np.isfinite(rollout_buffer.log_probs).all():
            # torch.multinomial says this at the step itself; nothing was learned from the steps since.
            raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")
        values = critic(torch.as_tensor(new_obs).float())
        returns_and_advantages(rollout_buffer, values.numpy().reshape(-1), dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _bootstrap(self, rewards: npt.NDArray[Any], dones: npt.NDArray[Any], infos: list[dict[str, Any]]) -> None:
        """Add the value of the last state to the reward of episodes that were cut off."""
        for idx in np.flatnonzero(dones):
            info = infos[idx]
            if info.get("terminal_observation") is not None and info.get("TimeLimit.truncated", False):
                last = torch.tensor(info["terminal_observation"]).float().reshape(1, -1)
                rewards[idx] += self.gamma * self.fast.critic(last)[0]


def returns_and_advantages(buffer: RolloutBuffer, last_values: npt.NDArray[Any], dones: npt.NDArray[Any]) -> None:
    """As ``compute_returns_and_advantage``, with everything but the recurrence done for all steps at once."""
    if not {type(buffer.gamma), type(buffer.gae_lambda)} <= {int, float}:
        # NumPy's own scalars make SB3 compute in float64 and round at the end.
        buffer.compute_returns_and_advantage(torch.from_numpy(last_values), dones)
        return
    alive = 1.0 - np.concatenate([buffer.episode_starts[1:], dones.astype(np.float32)[None]])
    following = np.concatenate([buffer.values[1:], last_values[None]])
    advantages = buffer.rewards + buffer.gamma * following * alive - buffer.values
    decay = buffer.gamma * buffer.gae_lambda * alive
    for step in range(buffer.buffer_size - 2, -1, -1):
        advantages[step] += decay[step] * advantages[step + 1]
    buffer.advantages = advantages
    buffer.returns = advantages + buffer.values
