"""Chooses, for one model, what can be made faster without changing a bit of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from torch.distributions import Distribution

from auxilium_rl.core.engine.a2c import FastA2C
from auxilium_rl.core.engine.coverage import reason_against
from auxilium_rl.core.engine.dqn import FastDQN, QNetworks
from auxilium_rl.core.engine.on_policy import ActorCritic
from auxilium_rl.core.engine.ppo import FastPPO
from auxilium_rl.core.engine.probe import difference

__all__ = ["EngineReport", "accelerate"]

_EVERYWHERE = ("no-argument-validation",)
_FAST = (*_EVERYWHERE, "flat-optimizer", "hand-written-gradients")


@dataclass(frozen=True)
class EngineReport:
    """Which engine runs a model, with which levers, and why it is not a faster one (empty: it is)."""

    name: str
    levers: tuple[str, ...]
    reason: str = ""


def accelerate(model: BaseAlgorithm) -> EngineReport:
    """Make ``model`` faster; called once, between construction and ``learn()``.

    The model becomes an instance of a subclass of its own class, and what it saves is what its own class saves.
    """
    # Distributions check their own arguments at every step; ours come from a network that SB3 built.
    Distribution.set_default_validate_args(False)
    reason = reason_against(model) or difference(model)
    if reason:
        return EngineReport("stock", _EVERYWHERE, reason)
    chosen: Any = model
    if isinstance(model, DQN):
        chosen.fast = QNetworks.of(chosen.policy, chosen.replay_buffer)
        chosen.__class__ = FastDQN
        return EngineReport("fast", (*_FAST, "lean-replay", "steady-training-mode"))
    chosen.fast = ActorCritic.of(chosen.policy)
    chosen.__class__ = FastPPO if isinstance(model, PPO) else FastA2C
    return EngineReport("fast", (*_FAST, "lean-rollouts"))
