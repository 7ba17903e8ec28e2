"""DQN with the update computed by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.dqn.policies import DQNPolicy

from auxilium_rl.core.engine.flat import FlatOptimizer, flatten
from auxilium_rl.core.engine.network import HandNetwork

__all__ = ["FastDQN", "QNetworks"]

_MEAN = 1
_ONE = torch.ones(())
_huber = torch.ops.aten.smooth_l1_loss.default
_huber_backward = torch.ops.aten.smooth_l1_loss_backward.default


class Memory:
    """A replay buffer as tensors that share its memory; a row for every step of every lane."""

    def __init__(self, buffer: ReplayBuffer) -> None:
        names = ("observations", "actions", "rewards", "dones", "timeouts", "next_observations")
        self.buffer = buffer
        self._columns = [torch.from_numpy(getattr(buffer, name)).flatten(0, 1) for name in names]

    def sample(self, size: int) -> tuple[torch.Tensor, ...]:
        """As ``ReplayBuffer.sample``, with the same two draws."""
        buffer = self.buffer
        steps = np.random.randint(0, buffer.buffer_size if buffer.full else buffer.pos, size=size)
        lanes = np.random.randint(0, high=buffer.n_envs, size=(size,))
        rows = torch.from_numpy(steps * buffer.n_envs + lanes)
        obs, actions, rewards, dones, timeouts, next_obs = (column.index_select(0, rows) for column in self._columns)
        return obs, actions, rewards.view(-1, 1), (dones * (1 - timeouts)).view(-1, 1), next_obs


class _SteadyPolicy(DQNPolicy):
    """Walks through its modules only when the mode changes; SB3 asks for a mode at every rollout."""

    def set_training_mode(self, mode: bool) -> None:
        """As in SB3."""
        if mode != self.training:
            super().set_training_mode(mode)


@dataclass
class QNetworks:
    """Both networks of a policy, the optimizer, and what the replay buffer holds."""

    online: HandNetwork
    target: HandNetwork
    optimizer: FlatOptimizer
    memory: Memory

    @staticmethod
    def of(policy: DQNPolicy, buffer: ReplayBuffer) -> QNetworks:
        """Take a policy over: its optimizer becomes flat, its modules stay usable."""
        optimizer = flatten(policy.optimizer)
        policy.__class__ = _SteadyPolicy
        online, target = HandNetwork(policy.q_net.q_net), HandNetwork(policy.q_net_target.q_net)
        return QNetworks(online, target, optimizer, Memory(buffer))


class FastDQN(DQN):
    """``DQN`` whose weights, metrics and random numbers are those of SB3's."""

    fast: QNetworks

    def _excluded_save_params(self) -> list[str]:
        # What is left in ``__dict__`` would be pickled into every zip.
        return [*super()._excluded_save_params(), "fast"]

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        if self.num_timesteps < learning_starts or np.random.rand() < self.exploration_rate:
            actions = np.array([self.action_space.sample() for _ in range(n_envs)])
        else:
            actions = self.fast.online(torch.from_numpy(np.array(self._last_obs, np.float32))).argmax(1).numpy()
        return actions, actions

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: npt.NDArray[Any],
        new_obs: Any,
        reward: npt.NDArray[Any],
        dones: npt.NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        pos = replay_buffer.pos
        replay_buffer.observations[pos] = self._last_obs
        replay_buffer.next_observations[pos] = new_obs
        replay_buffer.actions[pos] = buffer_action.reshape(-1, 1)
        replay_buffer.rewards[pos] = reward
        replay_buffer.dones[pos] = dones
        if replay_buffer.handle_timeout_termination:
            replay_buffer.timeouts[pos] = [info.get("TimeLimit.truncated", False) for info in infos]
        for lane in dones.nonzero()[0]:
            # The environment has begun the next episode already; this is the last observation of the old one.
            if infos[lane].get("terminal_observation") is not None:
                replay_buffer.next_observations[pos, lane] = infos[lane]["terminal_observation"]
        replay_buffer.pos = (pos + 1) % replay_buffer.buffer_size
        replay_buffer.full = replay_buffer.full or replay_buffer.pos == 0
        self._last_original_obs = self._last_obs
        self._last_obs = new_obs

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """``gradient_steps`` updates, each on ``batch_size`` transitions from the replay buffer."""
        fast, losses = self.fast, []
        self._update_learning_rate(fast.optimizer)
        assert self.replay_buffer is not None
        if fast.memory.buffer is not self.replay_buffer:
            fast.memory = Memory(self.replay_buffer)
        for _ in range(gradient_steps):
            obs, actions, rewards, final, next_obs = fast.memory.sample(batch_size)
            best = fast.target(next_obs).amax(1, keepdim=True)
            wanted = rewards + (1 - final) * self.gamma * best
            scores, kept = fast.online.forward(obs)
            current = scores.gather(1, actions)
            losses.append(_huber(current, wanted))
            gradient = _huber_backward(_ONE, current, wanted, _MEAN, 1.0)
            fast.online.backward(torch.zeros_like(scores).scatter_add_(1, actions, gradient), kept)
            fast.optimizer.clip(self.max_grad_norm)
            fast.optimizer.update()
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", np.mean([loss.item() for loss in losses]))
