"""Gradients of the losses of PPO and A2C, written out as autograd evaluates them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from stable_baselines3.common.buffers import RolloutBuffer

__all__ = ["Coefficients", "Samples", "entropy_of", "logits_gradient", "row_means", "value_gradient"]

_LOWEST = torch.finfo(torch.float32).min
_MEAN = 1
_mse_backward = torch.ops.aten.mse_loss_backward.default


class Samples:
    """A full rollout buffer as tensors; one copy serves all epochs."""

    def __init__(self, buffer: RolloutBuffer) -> None:
        if not buffer.generator_ready:
            for name in ("observations", "actions", "values", "log_probs", "advantages", "returns"):
                buffer.__dict__[name] = buffer.swap_and_flatten(buffer.__dict__[name])
            buffer.generator_ready = True
        rows = (buffer.values, buffer.log_probs, buffer.advantages, buffer.returns)
        self._observations = torch.from_numpy(buffer.observations)
        self._actions = torch.from_numpy(buffer.actions)
        self._scalars = torch.stack([torch.from_numpy(row).view(-1) for row in rows])

    def take(self, order: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
        """Observations, actions ``(n, 1)``, and values, log-probabilities, advantages and returns in this order."""
        scalars = self._scalars.index_select(1, order).unbind(0)
        return self._observations.index_select(0, order), self._actions.index_select(0, order), scalars


class Coefficients:
    """The factors with which the mean losses of a batch of ``size`` reach its rows, rounded as autograd rounds them."""

    def __init__(self, size: int, ent_coef: float, vf_coef: float) -> None:
        one = torch.ones(())
        self.policy = float(-one / size)
        self.entropy = float(-(one * ent_coef) / size)
        self.value = one * vf_coef


def entropy_of(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Entropy of the rows of normalised logits, and the two factors that it was made of."""
    bounded, probabilities = logits.clamp(min=_LOWEST), torch.softmax(logits, -1)
    return -(bounded * probabilities).sum(-1), bounded, probabilities


def logits_gradient(
    logits: torch.Tensor, actions: torch.Tensor, by_log_prob: torch.Tensor, by_entropy: float
) -> torch.Tensor:
    """Gradient of a loss by the raw scores, given its gradient by the log-probabilities and by every row's entropy.

    The terms are added in the order in which autograd's engine meets them: softmax, clamp, gather.
    """
    by_log_prob = by_log_prob.view(-1, 1)
    if by_entropy == 0.0:
        # Adding zeros changes no bit, and the sum of a row with one entry is that entry.
        return (logits.exp() * -by_log_prob).scatter_add_(1, actions, by_log_prob)
    bounded, probabilities = logits.clamp(min=_LOWEST), torch.softmax(logits, -1)
    gradient = torch._softmax_backward_data(bounded * -by_entropy, probabilities, -1, torch.float32)
    gradient = gradient + probabilities * -by_entropy
    gradient = gradient + torch.zeros_like(logits).scatter_add_(1, actions, by_log_prob)
    return gradient + (-gradient).sum(-1, keepdim=True) * logits.exp()


def value_gradient(values: torch.Tensor, returns: torch.Tensor, coefficient: torch.Tensor) -> torch.Tensor:
    """Gradient of ``coefficient * mse_loss(returns, values)`` by the values."""
    gradient: torch.Tensor = _mse_backward(coefficient, values, returns, _MEAN)
    return gradient


def row_means(rows: Sequence[torch.Tensor]) -> list[float]:
    """The mean of every row; rows of one length, as all but the last of an epoch are, are done together."""
    if len({len(row) for row in rows}) == 1:
        means: list[float] = torch.stack(list(rows)).mean(1).tolist()
        return means
    return [row.mean().item() for row in rows]
