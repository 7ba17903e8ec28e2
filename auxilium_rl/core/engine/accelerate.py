"""Chooses, for one model, what can be made faster without changing a bit of its weights."""

from __future__ import annotations

from dataclasses import dataclass

from stable_baselines3.common.base_class import BaseAlgorithm
from torch.distributions import Distribution

__all__ = ["EngineReport", "accelerate"]


@dataclass(frozen=True)
class EngineReport:
    """Which engine runs a model, with which levers, and why it is not a faster one (empty: it is)."""

    name: str
    levers: tuple[str, ...]
    reason: str = ""


def accelerate(model: BaseAlgorithm) -> EngineReport:
    """Make ``model`` faster; called once, between construction and ``learn()``."""
    # Distributions check their own arguments at every step; ours come from a network that SB3 built.
    Distribution.set_default_validate_args(False)
    return EngineReport("stock", ("no-argument-validation",), "")
