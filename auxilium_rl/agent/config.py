"""What an agent is told, by its program or by a file."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from auxilium_rl.client.errors import InvalidArgument

__all__ = ["AgentConfig"]


@dataclass(frozen=True)
class AgentConfig:
    """How an agent acts, learns and sends. Raises InvalidArgument, naming every field at fault.

    Attributes:
        address: of the server, ``host:port``.
        run_id: of the run that it joins; empty: the one run of ``experiment_id``, which the first agent starts.
        experiment_id: names the run that agents share.
        agent_id: unique within the run; empty: the machine's name.
        algorithm, total_timesteps, hyperparameters, seed, policy_name: of the run, where this agent starts it.
        agents: how many take part; with ``n_steps`` it says how many steps a rollout has (on-policy).
        synchronous: on-policy: act at most ``n_steps`` with one version, then wait for the next.
        max_staleness: on-policy: versions that a step may be behind; None: the server's default.
        buffer: of the run's replay buffers, into which its steps go; empty: the run's own, whose steps count.
        explore: False: the best action is taken, and nothing is sent.
        noise: exploration of TD3 and DDPG, in units of half of the action's range; None: that of the run's
            ``action_noise``, or 0.1 where it has none.
        chunk_steps, chunk_bytes, chunk_seconds: what was experienced is sent after so much of it, or so long; a chunk
            is never larger than the server accepts.
        queue_steps: steps that may wait to be sent; beyond them ``overflow`` says what happens.
        overflow: ``wait``: acting waits; ``spill``: they go to files in ``spill_dir``, which a restarted agent sends.
        compress: observations: None: where that makes them much smaller.
        join_seconds: how long to wait for a server that takes the agent in, and for the run's first version.
    """

    address: str = "127.0.0.1:50051"
    run_id: str = ""
    experiment_id: str = "agents"
    agent_id: str = ""
    algorithm: str = "ppo"
    total_timesteps: int = 1_000_000
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    policy_name: str = ""
    agents: int = 1
    synchronous: bool = False
    max_staleness: int | None = None
    buffer: str = ""
    explore: bool = True
    noise: float | None = None
    chunk_steps: int = 4096
    chunk_bytes: int = 16 << 20
    chunk_seconds: float = 0.25
    queue_steps: int = 100_000
    overflow: str = "wait"
    spill_dir: str = ""
    compress: bool | None = None
    join_seconds: float = 60.0

    def __post_init__(self) -> None:
        wrong: dict[str, str] = {}
        for name, least in (("agents", 1), ("total_timesteps", 1), ("chunk_steps", 1), ("chunk_bytes", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                wrong[name] = f"{value!r:.80} given; a whole number from {least} is accepted"
        if not isinstance(self.queue_steps, int) or self.queue_steps < self.chunk_steps:
            wrong["queue_steps"] = (
                f"{self.queue_steps!r:.80} given; at least chunk_steps ({self.chunk_steps}) is accepted"
            )
        for name in ("chunk_seconds", "noise", "join_seconds"):
            value = getattr(self, name)
            if value is None and name == "noise":
                continue
            if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                wrong[name] = f"{value!r:.80} given; 0 or more is accepted"
        if self.overflow not in {"wait", "spill"}:
            wrong["overflow"] = f"{self.overflow!r:.80} given; wait and spill are accepted"
        if (self.overflow == "spill") != bool(self.spill_dir):
            wrong["spill_dir"] = f"'{self.spill_dir}' given with overflow={self.overflow}; spill needs a folder"
        if wrong:
            raise InvalidArgument("; ".join(f"{name}: {text}" for name, text in wrong.items()), wrong)

    @property
    def name(self) -> str:
        """What the agent is called."""
        return self.agent_id or socket.gethostname()

    @classmethod
    def of_file(cls, path: str | Path, **changes: Any) -> AgentConfig:
        """What a JSON file says, by the names of the attributes; ``changes`` count more. Raises InvalidArgument."""
        try:
            told = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidArgument.of(str(path), str(error)) from error
        known = {one.name for one in fields(cls)}
        unknown = sorted(set(told) - known) if isinstance(told, dict) else ["(no object)"]
        if unknown:
            raise InvalidArgument(
                f"{path}: {', '.join(unknown)} given; {', '.join(sorted(known))} are accepted",
                dict.fromkeys(unknown, "unknown"),
            )
        return cls(**{**told, **changes})
