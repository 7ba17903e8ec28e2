"""What experience stands on; ``infra`` implements it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from auxilium_rl.core.experience.layout import Layout

__all__ = [
    "AgentInfo",
    "AgentRegistry",
    "AgentStats",
    "ExperienceLog",
    "ExperienceLogs",
    "ExperienceReader",
    "Record",
    "ShardedLogs",
]


class Record(NamedTuple):
    """A chunk as it lies in a log.

    Attributes:
        position: where it lies; ``ExperienceReader`` goes on from there.
    """

    agent_id: str
    incarnation: str
    seq: int
    chunk: bytes
    position: str = ""


class ExperienceLog(Protocol):
    """The chunks that one server took for one run; appended to by it alone."""

    @property
    def broken(self) -> bool:
        """Something could not be stored: nothing more is, until it is opened again."""

    @property
    def durable(self) -> Mapping[tuple[str, str], int]:
        """The last stored chunk of every agent and incarnation."""

    def holds(self, agent_id: str, incarnation: str, seq: int) -> bool:
        """Whether a chunk is stored, maybe before one that comes before it."""

    def append(self, record: Record, stored: Callable[[Exception | None], None]) -> None:
        """Store a chunk; ``stored`` is called when it is durable, or with what kept it from that.

        Waits while too much is on its way to the disk.
        """

    def put_aside(self, record: Record, reason: str) -> None:
        """Keep a chunk that cannot be learned from where nobody learns from it. Raises StoreUnavailable."""

    def close(self) -> None:
        """Store what is on its way, and let go."""


class ExperienceLogs(Protocol):
    """The logs of all runs."""

    def open(self, run_id: str) -> ExperienceLog:
        """This server's log of a run. Raises StoreUnavailable, ModelCorrupt."""

    def reader(self, run_id: str) -> ExperienceReader:
        """Reads what all servers took for a run, from its beginning."""

    def run_ids(self) -> Sequence[str]:
        """Of which anything is there."""

    def stray(self, run_id: str, age: float) -> tuple[str, int] | None:
        """Where the experience of a run lies that nobody knows, and how many bytes; None: it changed within ``age``
        seconds.
        """

    def remove(self, run_id: str) -> None:
        """All of a run."""


class ShardedLogs(Protocol):
    """The logs of runs whose experience lies in replay shards."""

    def open(self, layout: Layout) -> ExperienceLog:
        """Of a run. Raises StoreUnavailable, also while a shard is away."""

    def read(self, layout: Layout) -> Sequence[Iterator[Record]]:
        """What every part holds that is durable."""

    def forget(self, run_id: str) -> None:
        """Let go of a run's files and memory."""


class ExperienceReader(Protocol):
    """All chunks of a run, those of every server, each once; in the order in which one server stored them."""

    def read(self) -> Iterator[Record]:
        """Those that are durable and were not read yet."""

    def seek(self, positions: Mapping[str, str]) -> None:
        """Go on from where ``positions`` were taken. Raises ModelCorrupt when that is gone."""

    @property
    def positions(self) -> Mapping[str, str]:
        """Of the next chunk of every server."""


@dataclass(frozen=True)
class AgentStats:
    """What an agent did, since a server took stock of it last.

    Attributes:
        mean_return: of its last 100 episodes; None: none ended.
        version: it acted with last; -1: none.
        rejected: steps that were put aside.
    """

    steps: int = 0
    episodes: int = 0
    mean_return: float | None = None
    version: int = -1
    rejected: int = 0


@dataclass(frozen=True)
class AgentInfo:
    """An agent of a run."""

    agent_id: str
    incarnation: str
    connected: bool
    joined_at: datetime
    last_seen: datetime
    stats: AgentStats


class AgentRegistry(Protocol):
    """Which agents there are; a lease each, by the database's clock."""

    def join(self, run_id: str, agent_id: str, incarnation: str, owner: str, lease: float) -> None:
        """Take an agent for a server. Raises AgentTaken: another incarnation of it holds a lease."""

    def report(
        self, run_id: str, agent_id: str, incarnation: str, lease: float, stats: AgentStats, *, connected: bool
    ) -> bool:
        """Renew the lease (or end it, when it is not connected) and add to the numbers; whether it still holds it."""

    def list(self, run_id: str) -> Sequence[AgentInfo]:
        """By id."""

    def forget(self, run_id: str) -> None:
        """Of a run that was deleted."""
