"""Chooses, for one model, what can be made faster without changing a bit of its weights."""

from __future__ import annotations

from dataclasses import dataclass

from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from torch.distributions import Distribution

from auxilium_rl.core.engine.a2c import FastA2C
from auxilium_rl.core.engine.coverage import reason_against
from auxilium_rl.core.engine.dqn import FastDQN, QNetworks
from auxilium_rl.core.engine.on_policy import ActorCritic
from auxilium_rl.core.engine.ppo import FastPPO

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
    reason = reason_against(model)
    if reason:
        return EngineReport("stock", _EVERYWHERE, reason)
    if isinstance(model, DQN):
        assert model.replay_buffer is not None
        fast = QNetworks.of(model.policy, model.replay_buffer)
        model.__class__ = FastDQN
        model.fast = fast  # type: ignore[attr-defined]
        return EngineReport("fast", (*_FAST, "shared-replay-tensors"))
    assert isinstance(model, PPO | A2C)
    networks = ActorCritic.of(model.policy)
    model.__class__ = FastPPO if isinstance(model, PPO) else FastA2C
    model.fast = networks  # type: ignore[attr-defined]
    return EngineReport("fast", (*_FAST, "lean-rollouts"))
