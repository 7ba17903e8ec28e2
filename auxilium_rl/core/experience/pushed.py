"""Turns a model that would step environments into one that learns from what agents push. Only workers import this."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnvWrapper, VecTransposeImage

from auxilium_rl.core.experience.lanes import AgentLanes
from auxilium_rl.wire.rows import Obs

__all__ = ["Pushed", "learn_from", "seen_by"]


class Pushed(BaseAlgorithm):
    """What both kinds of algorithms share; mixed in by ``learn_from``."""

    lanes: AgentLanes
    has_begun: bool

    def _excluded_save_params(self) -> list[str]:
        # What is left in ``__dict__`` would be pickled into every zip.
        return [
            *super()._excluded_save_params(),
            "lanes",
            "has_begun",
            "replay_buffer_class",
            "replay_buffer_kwargs",
        ]

    def begin(self, callback: BaseCallback) -> None:
        """A rollout begins: a learning boundary. Before the first one the run says that it is there."""
        callback.on_rollout_start()
        if not self.has_begun:
            self.has_begun = True
            callback.on_step()

    def tell(self) -> int:
        """Statistics of the episodes that ended; gives how many did."""
        ended = self.lanes.feed.ended()
        self._update_info_buffer([{"episode": told} for told in ended])
        counts = self.lanes.feed.counts
        for name in ("used", "stale", "repeated"):
            self.logger.record(f"experience/{name}", getattr(counts, name))
        return len(ended)


def learn_from(model: BaseAlgorithm, lanes: AgentLanes) -> None:
    """Make a model learn from agents; after ``accelerate``, before ``learn``.

    Raises:
        InvalidRequest: it cannot, with these hyperparameters.
    """
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

    from auxilium_rl.core.experience.off_policy import PushedOffPolicy, check_off_policy
    from auxilium_rl.core.experience.on_policy import PushedOnPolicy
    from auxilium_rl.core.experience.sharded import PushedSharded

    on_policy = isinstance(model, OnPolicyAlgorithm)
    if not on_policy:
        check_off_policy(model)
    off_policy = PushedOffPolicy if lanes.shards is None else PushedSharded
    mixin: type = PushedOnPolicy if on_policy else off_policy
    changed: Any = model
    changed.__class__ = type(f"Pushed{type(model).__name__}", (mixin, type(model)), {})
    changed.lanes, changed.has_begun = lanes, False


def seen_by(model: BaseAlgorithm, rows: Obs) -> Any:
    """Rows as the policy sees them: pictures with their channels first."""
    env: Any = model.get_env()
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, VecTransposeImage):
            return env.transpose_observations(rows)
        env = env.venv
    return rows
