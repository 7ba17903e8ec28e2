"""What is known of an algorithm and of one hyperparameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["AlgorithmInfo", "HyperparameterInfo"]

Kind = Literal[
    "int", "float", "bool", "schedule", "train_freq", "policy_kwargs", "action_noise", "ent_coef", "target_entropy"
]


@dataclass(frozen=True)
class HyperparameterInfo:
    """One hyperparameter.

    Attributes:
        kind: what a value is; ``schedule`` is a number or ``lin_<number>``, which falls linearly to 0.
        default: a JSON value.
        low, high: bounds, both included unless ``above_low`` says that ``low`` itself is not.
        optional: none is a value.
    """

    name: str
    kind: Kind
    default: Any
    meaning: str
    low: float = float("-inf")
    high: float = float("inf")
    above_low: bool = False
    optional: bool = False

    @property
    def type(self) -> str:
        """The kind of value, in words."""
        return f"{self.kind} or none" if self.optional else self.kind

    @property
    def accepted(self) -> str:
        """What is accepted, in words."""
        text = {
            "int": "a whole number",
            "float": "a finite number",
            "bool": "true or false",
            "schedule": "a number, or lin_<number> to fall linearly to 0,",
            "train_freq": 'a whole number of steps, or ["<number>", "step" or "episode"]',
            "policy_kwargs": "a JSON object of what this algorithm's networks have (net_arch, activation_fn, …)",
            "action_noise": 'a JSON object {"type": "normal" or "ornstein_uhlenbeck", "sigma": <number above 0>}',
            "ent_coef": "a number, auto (it is learned), or auto_<number> to begin there,",
            "target_entropy": "a number, or auto (minus the number of actions),",
        }[self.kind]
        if self.kind in {"int", "float", "schedule", "ent_coef"}:
            text += self._range()
        return f"{text}, or none" if self.optional else text

    def _range(self) -> str:
        low = f"above {self.low:g}" if self.above_low else f"from {self.low:g}"
        if self.low == float("-inf"):
            return ""
        return f" {low}" if self.high == float("inf") else f" {low} to {self.high:g}"


@dataclass(frozen=True)
class AlgorithmInfo:
    """An algorithm and its hyperparameters, in Stable-Baselines3's order.

    Attributes:
        actions: the kinds of action space it takes, by the names of Gymnasium's classes.
        policy_kwargs: what its ``policy_kwargs`` may hold; nothing in it names code.
        on_policy: it learns from rollouts of all lanes, else from a replay buffer.
        masks: it takes an action mask.
    """

    name: str
    title: str
    hyperparameters: tuple[HyperparameterInfo, ...]
    actions: tuple[str, ...]
    policy_kwargs: tuple[str, ...]
    on_policy: bool
    masks: bool = False

    def __getitem__(self, name: str) -> HyperparameterInfo:
        return next(h for h in self.hyperparameters if h.name == name)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all hyperparameters."""
        return tuple(h.name for h in self.hyperparameters)
