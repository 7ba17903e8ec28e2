"""PPO with the update computed by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.utils import explained_variance

from auxilium_rl.core.engine.losses import Coefficients, Samples, entropy_of, logits_gradient, row_means, value_gradient
from auxilium_rl.core.engine.network import log_softmax
from auxilium_rl.core.engine.on_policy import FastOnPolicy

__all__ = ["FastPPO"]


@dataclass
class _Metrics:
    """What PPO logs: rows of an epoch's minibatches, and what they came to in the epochs before."""

    logits: list[torch.Tensor] = field(default_factory=list)
    log_ratios: list[torch.Tensor] = field(default_factory=list)
    ratios: list[torch.Tensor] = field(default_factory=list)
    surrogates: list[torch.Tensor] = field(default_factory=list)
    errors: list[torch.Tensor] = field(default_factory=list)
    entropy_losses: list[float] = field(default_factory=list)
    policy_losses: list[float] = field(default_factory=list)
    value_losses: list[float] = field(default_factory=list)
    clip_fractions: list[float] = field(default_factory=list)
    divergences: list[float] = field(default_factory=list)

    def end_epoch(self, clip_range: float) -> None:
        """Reduce the rows to means, for all minibatches together, which takes far fewer calls than one by one."""
        entropies = torch.split(entropy_of(torch.cat(self.logits))[0], [len(row) for row in self.logits])
        self.entropy_losses += [-mean for mean in row_means(entropies)]
        if np.isnan(self.entropy_losses).any():
            # SB3's ``Categorical`` says so at the minibatch itself; logits that are not numbers have no entropy.
            raise ValueError("the policy's logits are not numbers; a smaller learning rate may help")
        self.policy_losses += [-mean for mean in row_means(self.surrogates)]
        self.value_losses += row_means([error * error for error in self.errors])
        self.clip_fractions += row_means([((ratio - 1).abs() > clip_range).float() for ratio in self.ratios])
        # SB3 logs the divergence of the last epoch only.
        self.divergences = row_means([_kl(*pair) for pair in zip(self.ratios, self.log_ratios, strict=True)])
        for rows in (self.logits, self.log_ratios, self.ratios, self.surrogates, self.errors):
            rows.clear()

    def loss(self, ent_coef: float, vf_coef: float) -> float:
        """The whole loss of the last minibatch."""
        last = torch.tensor([self.policy_losses[-1], self.entropy_losses[-1], self.value_losses[-1]])
        return (last[0] + ent_coef * last[1] + vf_coef * last[2]).item()


class FastPPO(FastOnPolicy, PPO):
    """``PPO`` whose weights, metrics and random numbers are those of SB3's."""

    def train(self) -> None:
        """All epochs over the rollout."""
        buffer = self.rollout_buffer
        self._update_learning_rate(self.fast.optimizer)
        clip_range = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]
        clip_range_vf = None
        if self.clip_range_vf is not None:
            clip_range_vf = self.clip_range_vf(self._current_progress_remaining)  # type: ignore[operator]
        samples, metrics = Samples(buffer), _Metrics()
        size = buffer.buffer_size * buffer.n_envs
        rest = size % self.batch_size
        factors = {n: Coefficients(n, self.ent_coef, self.vf_coef) for n in (self.batch_size, rest) if n}
        going_on = True
        for _ in range(self.n_epochs):
            for order in torch.split(torch.from_numpy(np.random.permutation(size)), self.batch_size):
                going_on = self._learn(samples.take(order), factors[len(order)], clip_range, clip_range_vf, metrics)
                if not going_on:
                    break
            metrics.end_epoch(clip_range)
            self._n_updates += 1
            if not going_on:
                break
        self._record(metrics, clip_range, clip_range_vf)

    def _learn(
        self, batch: Any, factors: Coefficients, clip_range: float, clip_range_vf: float | None, metrics: _Metrics
    ) -> bool:
        """One minibatch; false when the policy has moved too far to go on."""
        actor, critic, optimizer = self.fast.actor, self.fast.critic, self.fast.optimizer
        obs, actions, (old_values, old_log_probs, advantages, returns) = batch
        if self.normalize_advantage and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        scores, actor_kept = actor.forward(obs)
        logits = log_softmax(scores)
        log_ratio = logits.gather(1, actions).view(-1) - old_log_probs
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
        surrogate, bound = advantages * ratio, advantages * clipped
        values, critic_kept = critic.forward(obs)
        values = values.view(-1)
        predicted, inside = values, None
        if clip_range_vf is not None:
            moved = values - old_values
            bounded = moved.clamp(-clip_range_vf, clip_range_vf)
            predicted, inside = old_values + bounded, moved == bounded
        metrics.logits.append(logits)
        metrics.log_ratios.append(log_ratio)
        metrics.ratios.append(ratio)
        metrics.surrogates.append(torch.min(surrogate, bound))
        metrics.errors.append(returns - predicted)
        if self.target_kl is not None and _kl(ratio, log_ratio).mean().numpy() > 1.5 * self.target_kl:
            return False
        # Inside of the clip range both surrogates are one, and each passes half of the gradient on; outside, only the
        # unclipped one does, when it is the smaller one.
        share = torch.where(ratio == clipped, 1.0, ((surrogate < bound).float() + (surrogate <= bound)) * 0.5)
        by_log_prob = advantages * factors.policy * share * ratio
        actor.backward(logits_gradient(logits, actions, by_log_prob, factors.entropy), actor_kept)
        by_value = value_gradient(predicted, returns, factors.value)
        if inside is not None:
            by_value = by_value * inside
        critic.backward(by_value.view(-1, 1), critic_kept)
        optimizer.clip(self.max_grad_norm)
        optimizer.update()
        return True

    def _record(self, metrics: _Metrics, clip_range: float, clip_range_vf: float | None) -> None:
        buffer, logger = self.rollout_buffer, self.logger
        logger.record("train/entropy_loss", np.mean(metrics.entropy_losses))
        logger.record("train/policy_gradient_loss", np.mean(metrics.policy_losses))
        logger.record("train/value_loss", np.mean(metrics.value_losses))
        logger.record("train/approx_kl", np.mean(np.array(metrics.divergences, np.float32)))
        logger.record("train/clip_fraction", np.mean(metrics.clip_fractions))
        logger.record("train/loss", metrics.loss(self.ent_coef, self.vf_coef))
        logger.record("train/explained_variance", explained_variance(buffer.values.flatten(), buffer.returns.flatten()))
        logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        logger.record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            logger.record("train/clip_range_vf", clip_range_vf)


def _kl(ratio: torch.Tensor, log_ratio: torch.Tensor) -> torch.Tensor:
    return (ratio - 1) - log_ratio
