"""Actions for one observation at a time, drawn in the caller's process, for programs that act in microseconds.

Random numbers are SplitMix64's (Steele, Lea and Flood 2014), so that agents in other languages draw the same: a uniform
number is the upper 53 bits times 2^-53; a choice is the first whose cumulative weight exceeds it; a normal number is
the cosine half of Box and Muller's transform of two of them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from auxilium_rl.inference.batches import FlatBatch, FlatWish
from auxilium_rl.inference.graph import shared_session
from auxilium_rl.inference.policy import OnnxPolicy
from auxilium_rl.inference.refused import Refused

__all__ = ["Drawn", "Sampler", "SplitMix64"]

_WORD = (1 << 64) - 1
_FEW = 16
"""So many choices are weighed faster by Python's own numbers than by NumPy."""
_NOISE = 0.1
_EPSILON = 1e-6
"""Of SAC's squashed Gaussian; source: Stable-Baselines3's ``SquashedDiagGaussianDistribution``."""


class SplitMix64:
    """A stream of random numbers; equal seeds give equal streams in every language."""

    def __init__(self, seed: int) -> None:
        self._state = seed & _WORD

    def word(self) -> int:
        """64 bits."""
        self._state = state = (self._state + 0x9E3779B97F4A7C15) & _WORD
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _WORD
        return state ^ (state >> 31)

    def uniform(self) -> float:
        """In [0, 1)."""
        return (self.word() >> 11) * 2.0**-53

    def normal(self) -> float:
        """Of mean 0 and deviation 1."""
        radius = math.sqrt(-2.0 * math.log(1.0 - self.uniform()))
        return radius * math.cos(2.0 * math.pi * self.uniform())


class Drawn(NamedTuple):
    """An action.

    Attributes:
        taken: as it is learned from: counted from 0; of a Gaussian before it is clipped.
        sent: as the environment takes it, counted from 0.
        log_prob: NaN where the policy has no probabilities.
    """

    taken: Any
    sent: Any
    log_prob: float


class Sampler:
    """One version of a policy, for one thread. A new one is made and run aside, then it takes the old one's place.

    Args:
        graph: ``policy.onnx``, or a session that has it and others use, too.
        description: ``policy.json``.
        noise: deviation of the noise on the actions of a policy that has none of its own (TD3, DDPG), in units of half
            of the Box's range; None: as the policy's run has it, or 0.1.
    """

    def __init__(self, graph: Any, description: dict[str, Any], noise: float | None = None) -> None:
        action = description["action_space"]
        self._kind = description.get("distribution", "none")
        self._discrete = action["type"] == "Discrete"
        self._epsilon = float(description.get("exploration_rate", 0.0))
        self._noise = float(description.get("noise", _NOISE)) if noise is None else noise
        self.remembers = description.get("frame_stack", 1) > 1 or "state" in description
        if self.remembers:
            raise Refused("policy", "it remembers; agents act with policies that see one observation")
        box = action["type"] == "Box"
        self._plain = self._discrete or box
        if not self._plain:
            self._policy = OnnxPolicy(graph, description)
            return
        if box:
            self._low, self._high = _bounds(description)
        session = shared_session(graph) if isinstance(graph, bytes) else graph
        gaussian = self._kind in {"gaussian", "squashed_gaussian"}
        names = ["action", "scores", *(["log_std"] if gaussian else [])]
        size = int(description["input"]["shape"][1])
        self._row = np.zeros((1, size), np.float32)
        given = session.run(names, {"observation": self._row})  # warm, and shows the shapes
        self._binding = session.io_binding()
        self._binding.bind_input("observation", "cpu", 0, np.float32, self._row.shape, self._row.ctypes.data)
        self._outputs = [np.zeros_like(value) for value in given]
        for name, value in zip(names, self._outputs, strict=True):
            self._binding.bind_output(name, "cpu", 0, value.dtype.type, value.shape, value.ctypes.data)
        self._run = session.run_with_iobinding
        self._session = session

    def best(self, row: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_] | None = None) -> Drawn:
        """What the policy thinks best for a flat row ``(size,)``; ``mask`` ``(mask_len,)`` says what is legal."""
        if not self._plain:
            return self._any(row, mask, FlatWish())
        self._compute(row)
        if self._discrete:
            action = int(self._outputs[0][0]) if mask is None else int(self._masked(mask).argmax())
            return Drawn(action, action, math.nan)
        sent = self._outputs[0][0].copy()
        return Drawn(sent, sent, math.nan)

    def draw(self, row: npt.NDArray[np.float32], rng: SplitMix64, mask: npt.NDArray[np.bool_] | None = None) -> Drawn:
        """An action from the policy's distribution, or with its exploration."""
        if not self._plain:
            return self._any(row, mask, FlatWish(deterministic=False, seed=rng.word() or 1, with_log_probs=True))
        self._compute(row)
        if not self._discrete:
            return self._number(rng)
        if self._kind == "categorical":
            return self._choice(rng, mask)
        if rng.uniform() < self._epsilon:
            legal = range(self._outputs[1].shape[1]) if mask is None else np.flatnonzero(mask)
            action = int(legal[int(rng.uniform() * len(legal))])
        else:
            action = int(self._outputs[0][0]) if mask is None else int(self._masked(mask).argmax())
        return Drawn(action, action, math.nan)

    def _compute(self, row: npt.NDArray[np.float32]) -> None:
        self._row[0] = row
        self._run(self._binding)

    def _masked(self, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        if mask.shape != self._outputs[1].shape[1:] or not mask.any():
            raise Refused("mask", f"{mask.shape} given; {self._outputs[1].shape[1:]} with something legal is accepted")
        return np.where(mask, self._outputs[1][0], np.float32(-np.inf))

    def _choice(self, rng: SplitMix64, mask: npt.NDArray[np.bool_] | None) -> Drawn:
        scores = self._outputs[1][0] if mask is None else self._masked(mask)
        if len(scores) > _FEW:
            return _many(scores, rng)
        numbers = scores.tolist()
        most = max(numbers)
        weights = [math.exp(number - most) for number in numbers]
        total = sum(weights)
        action = _first_beyond(weights, rng.uniform() * total)
        return Drawn(action, action, numbers[action] - most - math.log(total))

    def _number(self, rng: SplitMix64) -> Drawn:
        if self._kind not in {"gaussian", "squashed_gaussian"}:
            sent = self._outputs[0][0].copy()
            if self._noise:
                scale = 0.5 * (self._high - self._low) * self._noise
                noise = np.array([rng.normal() for _ in range(sent.size)], np.float32).reshape(sent.shape)
                sent = np.clip(sent + scale * noise, self._low, self._high)
            return Drawn(sent, sent, math.nan)
        mean, log_std = self._outputs[1][0], self._outputs[2][0]
        noise = np.array([rng.normal() for _ in range(mean.size)], np.float32).reshape(mean.shape)
        drawn = mean + np.exp(log_std) * noise
        each = -0.5 * noise**2 - log_std - np.float32(0.5 * math.log(2 * math.pi))
        if self._kind == "squashed_gaussian":
            squashed = np.tanh(drawn)
            each = each - np.log(1.0 - squashed**2 + np.float32(_EPSILON))
            sent = (self._low + 0.5 * (squashed + 1.0) * (self._high - self._low)).astype(np.float32)
            return Drawn(sent, sent, float(each.sum()))
        return Drawn(drawn, np.clip(drawn, self._low, self._high), float(each.sum()))

    def _any(self, row: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_] | None, wish: FlatWish) -> Drawn:
        acted = self._policy.act_flat(FlatBatch(row[None], (), None if mask is None else mask[None]), wish)
        log_prob = math.nan if acted.log_probs is None else float(acted.log_probs[0])
        return Drawn(acted.actions[0], acted.actions[0], log_prob)


def _first_beyond(weights: list[float], left: float) -> int:
    """The first choice whose cumulative weight exceeds ``left``."""
    legal = 0
    for number, weight in enumerate(weights):
        if weight:
            left, legal = left - weight, number
            if left < 0.0:
                break
    return legal  # the last legal one, where rounding led past it


def _many(scores: npt.NDArray[np.float32], rng: SplitMix64) -> Drawn:
    numbers = scores.astype(np.float64)
    most = numbers.max()
    weights = np.exp(numbers - most)
    sums = weights.cumsum()
    action = min(int(np.searchsorted(sums, rng.uniform() * sums[-1], side="right")), len(sums) - 1)
    while not weights[action]:
        action -= 1
    return Drawn(action, action, float(numbers[action] - most - math.log(sums[-1])))


def _bounds(description: dict[str, Any]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    from auxilium_rl.wire.spaces import space_from_json

    box: Any = space_from_json(description["native"]["action"], "action")
    return box.low.astype(np.float32), box.high.astype(np.float32)
