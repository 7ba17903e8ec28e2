"""A2C with the update computed by hand."""

from __future__ import annotations

import numpy as np
import torch
from stable_baselines3 import A2C
from stable_baselines3.common.utils import explained_variance

from auxilium_rl.core.engine.on_policy import FastOnPolicy, entropy_of, logits_gradient

__all__ = ["FastA2C"]


class FastA2C(FastOnPolicy, A2C):
    """``A2C`` whose weights, metrics and random numbers are those of SB3's."""

    def train(self) -> None:
        """One gradient step over the whole rollout."""
        fast, buffer = self.fast, self.rollout_buffer
        self._update_learning_rate(fast.optimizer)
        # SB3 shuffles what it then takes as a whole; the order decides the rounding of sums.
        order = torch.from_numpy(np.random.permutation(buffer.buffer_size * buffer.n_envs))
        obs, actions, scalars = shuffled(self, order)
        _, _, advantages, returns = scalars
        if self.normalize_advantage:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        scores, actor_kept = fast.actor.forward(obs)
        values, critic_kept = fast.critic.forward(obs)
        values = values.view(-1)
        logits = log_softmax(scores)
        raise NotImplementedError
