"""The server's side of agents: who they are, what of theirs is taken in, and when it is safe."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import structlog

from auxilium_rl.core.dto import Run
from auxilium_rl.core.errors import (
    AuxiliumError,
    Draining,
    InvalidRequest,
    RunEnded,
    StoreUnavailable,
    StreamsExhausted,
)
from auxilium_rl.core.experience.in_order import in_order
from auxilium_rl.core.experience.intake import AgentStream, Intake
from auxilium_rl.core.experience.layout import layout_of
from auxilium_rl.core.experience.plan import AGENTS
from auxilium_rl.core.experience.ports import (
    AgentInfo,
    AgentRegistry,
    ExperienceLog,
    ExperienceLogs,
    Record,
    ShardedLogs,
)
from auxilium_rl.core.experience.replay_plan import ONLINE
from auxilium_rl.core.ports import RunRegistry
from auxilium_rl.core.states import TERMINAL
from auxilium_rl.wire.agreement import difference

__all__ = ["ExperienceHub"]

_log = structlog.get_logger(__name__)
_LEASE, _TICK, _IDLE = 10.0, 1.0, 30.0
_MAX_NAME = 128


class ExperienceHub:
    """Takes agents in.

    Args:
        owner: this server, for the leases of agents.
        capacity: agents connected at once.
    """

    def __init__(
        self,
        runs: RunRegistry,
        agents: AgentRegistry,
        logs: ExperienceLogs,
        shards: ShardedLogs,
        owner: str,
        capacity: int,
    ) -> None:
        self._runs, self._agents, self._logs, self._owner = runs, agents, logs, owner
        self._shards, self._capacity = shards, capacity
        self._intakes: dict[str, Intake] = {}
        self._streams: dict[tuple[str, str], AgentStream] = {}
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._tick_on, name="agents", daemon=True)

    def start(self) -> None:
        """Begin to renew leases."""
        self._thread.start()

    def close(self) -> None:
        """Hang up; what was taken is stored."""
        self._closed = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        for stream in list(self._streams.values()):
            self.leave(stream, Draining("the server goes away; try again when it is back"))
        for intake in self._intakes.values():
            intake.close()

    def look(self) -> None:
        """A run may have ended: tell its agents."""
        self._wake.set()

    def join(
        self, run_id: str, agent_id: str, incarnation: str, contract: str, next_seq: int = 1, buffer: str = ""
    ) -> AgentStream:
        """Take an agent in.

        Args:
            next_seq: its chunks before this one are stored, here or by another server.
            buffer: of the run's replay buffers, into which its steps go; empty: the run's own.

        Raises:
            InvalidRequest: a name, or spaces that are not the run's.
            RunNotFound, RunEnded, AgentTaken, StreamsExhausted, StoreUnavailable, Draining.
        """
        for name, value in (("agent_id", agent_id), ("incarnation", incarnation)):
            if not 0 < len(value) <= _MAX_NAME or not value.isprintable():
                raise InvalidRequest.of(
                    f"join.{name}", f"{value!r:.160} given; 1 to {_MAX_NAME} printable characters are accepted"
                )
        run = self._runs.get(run_id)
        _check(run, contract, buffer)
        with self._lock:
            if self._closed:
                raise Draining("the server goes away; try again when it is back")
            before = self._streams.get((run_id, agent_id))
            if before is None and len(self._streams) >= self._capacity:
                raise StreamsExhausted(f"{self._capacity} agents are connected; MAX_AGENTS bounds them")
            self._agents.join(run_id, agent_id, incarnation, self._owner, _LEASE)
            if before is not None:  # the same incarnation came back before its old connection was seen to be gone
                before.end(Draining("the agent connected again"))
            intake = self._intakes.get(run_id)
            if intake is not None and intake.log.broken:
                intake.close()
                intake = None
            if intake is None:
                intake = self._intakes[run_id] = Intake(run, self._opened(run))
            stream = self._streams[run_id, agent_id] = AgentStream(
                intake, agent_id, incarnation, max(next_seq, 1) - 1, buffer
            )
        _log.info("agent_joined", run_id=run_id, agent=agent_id, incarnation=incarnation[:8])
        return stream

    def leave(self, stream: AgentStream, why: Exception | None = None) -> None:
        """The agent's connection is gone, or shall be."""
        key = stream.run_id, stream.agent_id
        with self._lock:
            mine = self._streams.get(key) is stream
            if mine:
                del self._streams[key]
        stream.end(why)
        if mine:
            self._report(stream, connected=False)

    def agents(self, run_id: str) -> Iterator[AgentInfo]:
        """Every agent that ever joined a run. Raises RunNotFound."""
        self._runs.get(run_id)
        yield from self._agents.list(run_id)

    def stored(self, run_id: str) -> Iterator[Record]:
        """All that lies in the logs of a run now, each chunk once. Raises RunNotFound, InvalidRequest, ModelCorrupt."""
        run = self._runs.get(run_id)
        where = run.spec.environment.uri
        if where != AGENTS:
            raise InvalidRequest.of("run_id", f"run '{run_id}' is on '{where}'; agents pushed nothing")
        layout = layout_of(run, self._runs.get)
        if layout is not None:
            yield from in_order(self._shards.read(layout))
            return
        seen: dict[tuple[str, str], int] = {}
        for record in self._logs.reader(run_id).read():
            key = record.agent_id, record.incarnation
            if record.seq > seen.get(key, 0):
                seen[key] = record.seq
                yield record

    def forget(self, run_id: str) -> None:
        """The run was deleted."""
        with self._lock:
            intake = self._intakes.pop(run_id, None)
        if intake is not None:
            intake.close()
        self._shards.forget(run_id)
        self._agents.forget(run_id)

    def _opened(self, run: Run) -> ExperienceLog:
        layout = layout_of(run, self._runs.get)
        if layout is None:
            return self._logs.open(run.run_id)
        if run.lease_owner not in {"", self._owner}:
            # The shards of a run are where it is trained; they would be held by two servers at once.
            raise StoreUnavailable(
                f"run '{run.run_id}' is trained by another server, whose replay shards have its experience; push there"
            )
        return self._shards.open(layout)

    def _tick_on(self) -> None:
        while not self._closed:
            self._wake.wait(_TICK)
            self._wake.clear()
            try:
                self._tick()
            except AuxiliumError as error:  # the database is away; the next tick may reach it
                _log.warning("agents_not_reported", reason=error.message)
            except Exception:  # noqa: BLE001 - leases must be renewed whatever happened
                _log.exception("agents_not_reported")

    def _tick(self) -> None:
        with self._lock:
            streams = list(self._streams.values())
            idle = self._idle({stream.run_id for stream in streams})
        for intake in idle:
            intake.close()
        for run_id in {stream.run_id for stream in streams}:
            run = self._runs.get(run_id)
            ended = run.state in TERMINAL
            for stream in (one for one in streams if one.run_id == run_id):
                if ended:
                    stream.run_ended(run.state.value)
                self._report(stream, connected=True)

    def _idle(self, busy: set[str]) -> list[Intake]:
        """Intakes that no agent needed for a while; they are opened again when one does. Under the lock."""
        now, found = time.monotonic(), []
        for run_id, intake in list(self._intakes.items()):
            if run_id in busy or not intake.idle_since:
                intake.idle_since = now
            elif now - intake.idle_since > _IDLE:
                found.append(self._intakes.pop(run_id))
        return found

    def _report(self, stream: AgentStream, *, connected: bool) -> None:
        stats = stream.stats()
        try:
            held = self._agents.report(
                stream.run_id, stream.agent_id, stream.incarnation, _LEASE, stats, connected=connected
            )
        except AuxiliumError:
            stream.put_back(stats)
            if connected:
                raise
            return
        if not held and connected:
            stream.end(Draining("another server has this agent now"))


def _check(run: Run, contract: str, buffer: str) -> None:
    """Raises InvalidRequest, RunEnded."""
    source: Any = run.spec.environment
    if source.uri != AGENTS:
        raise InvalidRequest.of(
            "join.run_id", f"run '{run.run_id}' is on '{source.uri}'; agents push to runs on agents"
        )
    if run.state in TERMINAL:
        raise RunEnded(f"run '{run.run_id}' is {run.state}; it takes no more experience")
    differs = difference(source.contract, contract)
    if differs is not None:
        raise InvalidRequest.of(f"join.{differs[0]}", differs[1])
    plan = run.spec.experience
    known = sorted(plan.buffers) if plan is not None and plan.buffers else [ONLINE]
    if buffer and buffer not in known:
        raise InvalidRequest.of("join.buffer", f"{buffer!r:.160} given; the run has {', '.join(known)}")
