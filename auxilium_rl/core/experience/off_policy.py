"""DQN, SAC, TD3 and their kin on what agents pushed. Only workers import this."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import RolloutReturn, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.vec_env import VecEnv

from auxilium_rl.core.errors import InvalidRequest
from auxilium_rl.core.experience.episode_rows import episode_number
from auxilium_rl.core.experience.feed import Feed, Piece
from auxilium_rl.core.experience.lanes import AgentLanes
from auxilium_rl.core.experience.pushed import Pushed, seen_by
from auxilium_rl.core.experience.replay import AgentHerReplayBuffer, EpisodeReplay
from auxilium_rl.wire.rows import Obs, concat_rows, put, take

__all__ = ["PushedOffPolicy", "check_off_policy", "store"]


def check_off_policy(model: Any) -> None:
    """Raises InvalidRequest for what can only be done with environments of one's own."""
    freq = model.train_freq
    if isinstance(freq, TrainFreq) and freq.unit is not TrainFrequencyUnit.STEP:
        raise InvalidRequest.of("hyperparameters.train_freq", "a number of episodes given; agents push steps")
    if getattr(model.replay_buffer, "optimize_memory_usage", False):
        raise InvalidRequest.of(
            "hyperparameters.optimize_memory_usage", "true given; steps of several agents do not follow each other"
        )
    if getattr(model, "n_steps", 1) != 1:  # it is told where ``replay_arguments`` are
        raise InvalidRequest.of("hyperparameters.n_steps", f"{model.n_steps} given to a buffer that knows no agents")


class PushedOffPolicy(Pushed, OffPolicyAlgorithm):
    """A mixin over DQN, QRDQN, SAC, TD3, DDPG and TQC; set on a model by ``learn_from``."""

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: ReplayBuffer,
        action_noise: Any = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        """Put ``train_freq`` steps into the replay buffer."""
        lanes: AgentLanes = self.lanes
        self.policy.set_training_mode(False)
        self.begin(callback)
        pieces = lanes.feed.take(train_freq.frequency)
        lanes.came()
        self.keep(replay_buffer, pieces)
        self.num_timesteps += train_freq.frequency
        callback.update_locals(locals())
        callback.on_step()
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        if type(self)._on_step is not OffPolicyAlgorithm._on_step:  # DQN counts steps
            for _ in range(train_freq.frequency):
                self._on_step()
        ended = self.tell()
        for _ in range(ended):
            self._episode_num += 1
            if log_interval is not None and self._episode_num % log_interval == 0:
                self.dump_logs()
        callback.on_rollout_end()
        return RolloutReturn(train_freq.frequency, ended, True)

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """See SB3; hindsight begins with the first episode that ended."""
        if not isinstance(self.replay_buffer, AgentHerReplayBuffer) or self.replay_buffer.can_sample:
            super().train(gradient_steps, batch_size)

    def _store_aside(self, buffer: ReplayBuffer) -> None:
        """Put what came for other buffers into them; how much they hold is told with the run's metrics."""
        feed = self.lanes.feed
        if isinstance(buffer, EpisodeReplay) and isinstance(feed, Feed):
            for name, pieces in feed.aside():
                store(self, buffer.others[name], pieces)
            for name, other in buffer.others.items():
                self.logger.record(f"experience/{name}", ReplayBuffer.size(other))

    def keep(self, replay_buffer: ReplayBuffer, pieces: list[Piece]) -> None:
        """Store steps where batches are drawn from."""
        store(self, replay_buffer, pieces)
        self._store_aside(replay_buffer)


def store(model: OffPolicyAlgorithm, buffer: ReplayBuffer, pieces: list[Piece]) -> None:
    """Put steps into a replay buffer of one lane, as SB3's ``_store_transition`` does one by one."""
    observations = concat_rows([take(piece.chunk.observations, slice(piece.first, piece.last)) for piece in pieces])
    actions = np.concatenate([piece.chunk.actions[piece.first : piece.last] for piece in pieces])
    rewards = np.concatenate([piece.chunk.rewards[piece.first : piece.last] for piece in pieces])
    ends = np.cumsum([piece.count for piece in pieces]) - 1
    following = _following(observations, pieces, ends)
    count, size = len(rewards), buffer.buffer_size
    dones, timeouts = np.zeros(count, np.float32), np.zeros(count, np.float32)
    dones[ends] = [piece.terminated or piece.truncated for piece in pieces]
    timeouts[ends] = [piece.truncated for piece in pieces]
    kept = slice(max(count - size, 0), None)
    where = (buffer.pos + np.arange(count)[kept]) % size
    _put(buffer.observations, where, seen_by(model, observations), kept)
    _put(buffer.next_observations, where, seen_by(model, following), kept)
    buffer.actions[where, 0] = _scaled(model, actions).reshape(count, -1)[kept]
    buffer.rewards[where, 0], buffer.dones[where, 0] = rewards[kept], dones[kept]
    if buffer.handle_timeout_termination:
        buffer.timeouts[where, 0] = timeouts[kept]
    buffer.full = buffer.full or buffer.pos + count >= size
    buffer.pos = (buffer.pos + count) % size
    if isinstance(buffer, EpisodeReplay):
        numbers = [np.full(piece.count, episode_number(*piece.key), np.uint64) for piece in pieces]
        steps = np.concatenate([piece.start + np.arange(piece.count) for piece in pieces])
        buffer.wrote(where, np.concatenate(numbers)[kept], steps[kept], dones[kept] > 0)


def _following(observations: Obs, pieces: list[Piece], ends: npt.NDArray[np.int64]) -> Obs:
    """What was seen after each step; after one that terminated, where nobody looks, the step's own."""
    index = np.minimum(np.arange(1, int(ends[-1]) + 2), int(ends[-1]))
    index[ends] = ends
    rows = take(observations, index)
    known = [(int(end), piece.after()) for end, piece in zip(ends, pieces, strict=True)]
    for end, after in known:
        if after is not None:
            put(rows, [end], after)
    return rows


def _scaled(model: OffPolicyAlgorithm, actions: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return model.policy.scale_action(actions) if isinstance(model.action_space, spaces.Box) else actions


def _put(target: Any, where: npt.NDArray[np.int64], rows: Obs, kept: slice) -> None:
    if isinstance(rows, dict):
        for key, leaf in rows.items():
            target[key][where, 0] = leaf[kept].reshape(-1, *target[key].shape[2:])
    else:
        target[where, 0] = rows[kept].reshape(-1, *target.shape[2:])
