"""What a policy's scores say of its actions: the best legal one, samples, log-probabilities, probabilities.

The arithmetic is Stable-Baselines3's ``common/distributions.py``, and where there is a mask sb3-contrib's
``common/maskable/distributions.py``. Actions are counted from 0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from auxilium_rl.inference.refused import Refused

__all__ = ["Categorical", "Gaussian", "mask_sizes"]

Floats = npt.NDArray[np.float32]
_EPSILON = 1e-6
"""Of SAC's squashed Gaussian; source: Stable-Baselines3's ``SquashedDiagGaussianDistribution``."""


def mask_sizes(action: dict[str, Any]) -> list[int]:
    """How many choices each number of an action has, as they stand in a mask; none for actions without a mask."""
    if action["type"] == "Discrete":
        return [action["n"]]
    if action["type"] == "MultiDiscrete":
        return list(action["nvec"])
    return [2] * int(np.prod(action["shape"], dtype=np.int64)) if action["type"] == "MultiBinary" else []


class Categorical:
    """One choice for each number of an action; bits are choices of two.

    Args:
        exploration: with this probability any legal action is taken instead (value-based algorithms); None: the scores
            are logits.
    """

    def __init__(self, action: dict[str, Any], exploration: float | None) -> None:
        self._sizes = mask_sizes(action)
        self._shape = () if action["type"] == "Discrete" else tuple(action["shape"])
        self._bits = action["type"] == "MultiBinary"
        self._exploration = exploration
        self._starts = np.cumsum([0, *self._sizes[:-1]]).tolist()

    def logits(self, scores: Floats, masks: npt.NDArray[np.bool_] | None) -> Floats:
        """``(n, sum of sizes)``, minus infinity where it is not legal. Raises Refused: nothing is legal."""
        if self._bits and scores.shape[1] != sum(self._sizes):  # of one number for each bit, the two it stands for
            scores = np.stack([np.zeros_like(scores), scores], axis=2).reshape(len(scores), -1)
        if masks is None:
            return scores
        if masks.shape != scores.shape:
            raise Refused("action_mask", f"{masks.shape[1]} values given; none or {scores.shape[1]} are accepted")
        for start, size in zip(self._starts, self._sizes, strict=True):
            legal = masks[:, start : start + size].any(axis=1)
            if not legal.all():
                row = int(np.flatnonzero(~legal)[0])
                which = f" of row {row}" if len(masks) > 1 else ""
                raise Refused("action_mask", f"values {start} to {start + size - 1}{which} forbid every action")
        return np.where(masks, scores, np.float32(-np.inf))

    def best(self, logits: Floats) -> npt.NDArray[np.int64]:
        """``(n, *shape)``."""
        return self._joined([part.argmax(axis=1) for part in self._parts(logits)])

    def sample(self, logits: Floats, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """``(n, *shape)``."""
        if self._exploration is None:  # the largest of logits and Gumbel noise is a sample of their softmax
            return self.best(logits + rng.gumbel(size=logits.shape).astype(np.float32))
        explores = rng.random(len(logits)) < self._exploration
        anything = np.where(np.isneginf(logits), -1.0, rng.random(logits.shape))
        return np.where(self._like(explores), self.best(anything.astype(np.float32)), self.best(logits))

    def _like(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return rows.reshape(-1, *(1 for _ in self._shape))

    def log_prob(self, logits: Floats, actions: npt.NDArray[np.int64]) -> Floats:
        """``(n,)`` of actions ``(n, *shape)``. Raises Refused where there is no distribution."""
        self._need_distribution("with_log_probs")
        chosen = actions.reshape(len(actions), -1)
        total = np.zeros(len(actions), np.float32)
        for number, part in enumerate(self._parts(logits)):
            total += np.take_along_axis(_log_softmax(part), chosen[:, number : number + 1], axis=1)[:, 0]
        return total

    def probabilities(self, logits: Floats) -> Floats:
        """``(n, sum of sizes)``. Raises Refused where there is no distribution."""
        self._need_distribution("with_probabilities")
        return np.concatenate([np.exp(_log_softmax(part)) for part in self._parts(logits)], axis=1)

    def _need_distribution(self, field: str) -> None:
        if self._exploration is not None:
            raise Refused(field, "true given; this policy has values of actions, not probabilities")

    def _parts(self, logits: Floats) -> list[Floats]:
        return np.split(logits, self._starts[1:], axis=1)

    def _joined(self, parts: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
        return np.stack(parts, axis=1).reshape(len(parts[0]), *self._shape)


class Gaussian:
    """Independent normal numbers, perhaps squashed by tanh, in the units of a Box.

    Args:
        squashed: samples go through tanh and are stretched to the bounds; else they are clipped to them.
    """

    def __init__(self, low: Floats, high: Floats, squashed: bool) -> None:
        self._low, self._high, self._squashed = low, high, squashed

    def sample(self, mean: Floats, log_std: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Actions as the simulator takes them, and their log-probabilities ``(n,)``."""
        drawn: Floats = mean + np.exp(log_std) * rng.standard_normal(mean.shape).astype(np.float32)
        return self._sent(drawn), self._log_prob(drawn, mean, log_std)

    def log_prob_of_mode(self, mean: Floats, log_std: Floats) -> Floats:
        """``(n,)``."""
        return self._log_prob(mean, mean, log_std)

    def _sent(self, drawn: Floats) -> Floats:
        if not self._squashed:
            return np.clip(drawn, self._low, self._high)
        return (self._low + 0.5 * (np.tanh(drawn) + 1.0) * (self._high - self._low)).astype(np.float32)

    def _log_prob(self, drawn: Floats, mean: Floats, log_std: Floats) -> Floats:
        """Of what was drawn, before it is clipped or stretched, as SB3 has it."""
        scaled = (drawn - mean) / np.exp(log_std)
        each = -0.5 * scaled**2 - log_std - 0.5 * math.log(2 * math.pi)
        if self._squashed:
            each -= np.log(1.0 - np.tanh(drawn) ** 2 + _EPSILON)
        total: Floats = each.sum(axis=1, dtype=np.float32)
        return total


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
