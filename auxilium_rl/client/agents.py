"""Runs that learn from agents, from the outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from auxilium_rl.client.errors import InvalidArgument

if TYPE_CHECKING:  # what they import takes longer than the rest of the SDK
    from auxilium_rl.wire.rows import AnySpace
    from generated.auxilium.v1 import experience_pb2, runs_pb2

__all__ = ["AgentStatus", "Agents", "Hindsight"]


@dataclass(frozen=True)
class Hindsight:
    """Hindsight experience replay, for observations that are a Dict with goals.

    Attributes:
        n_sampled_goal: steps with another goal for each with its own.
        goal_selection_strategy: ``future``, ``final`` or ``episode``.
        reward: of having achieved one goal when another was desired: ``sparse``: 0 within ``distance_threshold``, else
            -1; ``dense``: minus the distance.
    """

    n_sampled_goal: int = 4
    goal_selection_strategy: str = "future"
    reward: str = "sparse"
    distance_threshold: float = 0.05


@dataclass(frozen=True)
class Agents:
    """What the agents of a run see and do, and how that is learned from.

    Attributes:
        mask_len: of their action masks; 0: they have none.
        synchronous: on-policy: they wait for the next version after ``n_steps`` each, and nothing is dropped.
        max_staleness: on-policy: versions that a step may be behind; None: the server's default.
        publish_seconds: off-policy: a new version at most so often; 0: the server's default.
        buffers: off-policy: shares of a batch by the names of replay buffers, ``online`` among them, whose steps count
            as the run's timesteps; none: there is one. Agents say which is theirs (``AgentConfig.buffer``).
        hindsight: off-policy, where observations have goals: most steps get one that was achieved later.
    """

    observation_space: AnySpace
    action_space: AnySpace
    mask_len: int = 0
    synchronous: bool = False
    max_staleness: int | None = None
    publish_seconds: float = 0.0
    buffers: Mapping[str, float] = field(default_factory=dict)
    hindsight: Hindsight | None = None

    def put_into(self, request: runs_pb2.StartRunRequest) -> None:
        """Say it in a request. Raises InvalidArgument for a space that cannot travel."""
        from auxilium_rl.wire.spaces import UnsupportedSpace, space_message

        environment = request.environment
        for name, space in (("observation_space", self.observation_space), ("action_space", self.action_space)):
            try:
                getattr(environment, name).CopyFrom(space_message(space))
            except UnsupportedSpace as refused:
                raise InvalidArgument.of(name, str(refused)) from refused
        environment.mask_len = self.mask_len
        request.experience.synchronous = self.synchronous
        request.experience.publish_seconds = self.publish_seconds
        if self.max_staleness is not None:
            request.experience.max_staleness = self.max_staleness
        request.experience.buffers.update(self.buffers)
        if self.hindsight is not None:
            wish = self.hindsight
            message = request.experience.hindsight
            message.n_sampled_goal, message.distance_threshold = wish.n_sampled_goal, wish.distance_threshold
            message.goal_selection_strategy, message.reward = wish.goal_selection_strategy, wish.reward


@dataclass(frozen=True)
class AgentStatus:
    """An agent of a run, as the server knows it.

    Attributes:
        steps: stored.
        episodes: that ended.
        mean_return: of the last 100 of them; 0.0: none ended.
        version: it acted with last; -1: none.
        version_lag: versions that the policy is ahead of it.
        rejected: steps that were put aside.
    """

    agent_id: str
    incarnation: str
    connected: bool
    joined_at: datetime
    last_seen: datetime
    steps: int
    episodes: int
    mean_return: float
    version: int
    version_lag: int
    rejected: int

    @classmethod
    def of(cls, message: experience_pb2.Agent) -> AgentStatus:
        """What a server told."""
        lag = max(message.newest_version - message.version, 0) if message.version >= 0 else 0
        joined, seen = (time.ToDatetime(tzinfo=timezone.utc) for time in (message.joined_at, message.last_seen))
        return cls(
            message.agent_id,
            message.incarnation,
            message.connected,
            joined,
            seen,
            message.steps,
            message.episodes,
            message.mean_return,
            message.version,
            lag,
            message.rejected,
        )
