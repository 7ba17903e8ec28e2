"""A2C with the update computed by hand."""

from __future__ import annotations

import numpy as np
import torch
from stable_baselines3 import A2C
from stable_baselines3.common.utils import explained_variance
from torch.nn import functional

from auxilium_rl.core.engine.losses import Coefficients, Samples, entropy_of, logits_gradient, value_gradient
from auxilium_rl.core.engine.network import log_softmax
from auxilium_rl.core.engine.on_policy import FastOnPolicy

__all__ = ["FastA2C"]


class FastA2C(FastOnPolicy, A2C):
    """``A2C`` whose weights, metrics and random numbers are those of SB3's."""

    def train(self) -> None:
        """One gradient step over the whole rollout."""
        actor, critic, optimizer = self.fast.actor, self.fast.critic, self.fast.optimizer
        self._update_learning_rate(optimizer)
        size = self.rollout_buffer.buffer_size * self.rollout_buffer.n_envs
        # SB3 shuffles what it then takes as a whole, and the order decides how sums are rounded.
        order = torch.from_numpy(np.random.permutation(size))
        obs, actions, (_, _, advantages, returns) = Samples(self.rollout_buffer).take(order)
        if self.normalize_advantage:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        factors = Coefficients(size, self.ent_coef, self.vf_coef)
        scores, actor_kept = actor.forward(obs)
        values, critic_kept = critic.forward(obs)
        values, logits = values.view(-1), log_softmax(scores)
        by_log_prob = advantages * factors.policy
        actor.backward(logits_gradient(logits, actions, by_log_prob, factors.entropy), actor_kept)
        critic.backward(value_gradient(values, returns, factors.value).view(-1, 1), critic_kept)
        optimizer.clip(self.max_grad_norm)
        optimizer.update()
        self._n_updates += 1
        self._record(logits, actions, advantages, values, returns)

    def _record(
        self,
        logits: torch.Tensor,
        actions: torch.Tensor,
        advantages: torch.Tensor,
        values: torch.Tensor,
        returns: torch.Tensor,
    ) -> None:
        buffer, logger = self.rollout_buffer, self.logger
        policy_loss = -(advantages * logits.gather(1, actions).view(-1)).mean()
        logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        logger.record("train/explained_variance", explained_variance(buffer.values.flatten(), buffer.returns.flatten()))
        logger.record("train/entropy_loss", -entropy_of(logits)[0].mean().item())
        logger.record("train/policy_loss", policy_loss.item())
        logger.record("train/value_loss", functional.mse_loss(returns, values).item())
