"""What is taken in of one run: each chunk looked at, stored once, and acknowledged when it is safe."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from auxilium_rl.core.dto import Run
from auxilium_rl.core.errors import ChunkOutOfOrder
from auxilium_rl.core.experience.plan import ON_POLICY
from auxilium_rl.core.experience.ports import AgentStats, ExperienceLog, Record
from auxilium_rl.core.experience.replay_plan import ONLINE
from auxilium_rl.core.publishing import policy_of
from auxilium_rl.wire.agreement import spaces_of
from auxilium_rl.wire.chunks import ChunkCodec, Experience, InvalidChunk

__all__ = ["AgentStream", "Intake", "Receipt", "Rejection", "Welcome"]

_LAST_EPISODES = 100


@dataclass(frozen=True)
class Welcome:
    """What an agent must know.

    Attributes:
        durable_seq: the last chunk of this incarnation that is stored.
        quota: steps with one version before it waits for the next; 0: any number.
    """

    durable_seq: int
    policy: str
    on_policy: bool
    synchronous: bool
    quota: int


class Rejection(NamedTuple):
    """A chunk that was put aside."""

    seq: int
    field: str
    reason: str


class Receipt(NamedTuple):
    """Chunks up to ``durable_seq`` are stored, but for those that were rejected; ``ended``: the run's last state."""

    durable_seq: int
    rejected: tuple[Rejection, ...]
    ended: str


class Intake:
    """What all agents of a run share."""

    def __init__(self, run: Run, log: ExperienceLog) -> None:
        spec = run.spec
        observation, action, mask_len = spaces_of(spec.environment.contract)
        plan = spec.experience
        assert plan is not None
        self.run_id, self.log = run.run_id, log
        self.codec = ChunkCodec(observation, action, mask_len)
        self.on_policy = spec.algorithm in ON_POLICY
        self.policy, self.synchronous = policy_of(run), plan.synchronous
        self.quota = int(spec.hyperparameters["n_steps"]) if plan.synchronous else 0
        self.taken: dict[tuple[str, str], int] = dict(log.durable)
        self.aside: dict[tuple[str, str], set[int]] = {}
        """Chunks that were put aside since the log was opened."""
        self.streams: dict[tuple[str, str], AgentStream] = {}
        """The newest connection of every incarnation."""
        self.lock = threading.Lock()
        self._turns: dict[tuple[str, str], threading.Lock] = {}
        self.idle_since = 0.0

    def turn(self, key: tuple[str, str]) -> threading.Lock:
        """Held while a chunk of an incarnation is taken: of two connections one waits, and their order stays."""
        with self.lock:
            return self._turns.setdefault(key, threading.Lock())

    def close(self) -> None:
        """Store what is on its way."""
        self.log.close()


class AgentStream:
    """One connection of one agent, whose steps go into the replay buffer ``buffer``."""

    def __init__(
        self, intake: Intake, agent_id: str, incarnation: str, stored_elsewhere: int = 0, buffer: str = ""
    ) -> None:
        self._intake, self._buffer = intake, "" if buffer == ONLINE else buffer
        self.run_id, self.agent_id, self.incarnation = intake.run_id, agent_id, incarnation
        self._key = agent_id, incarnation
        self._changed = threading.Condition()
        self._open: set[int] = set()
        with intake.lock:
            intake.taken[self._key] = max(intake.taken.get(self._key, 0), stored_elsewhere)
            intake.streams[self._key] = self
        self._durable = max(intake.log.durable.get(self._key, 0), stored_elsewhere)
        self._last = self._told = self._durable
        self._rejected: list[Rejection] = []
        self._state, self._over = "", False
        self._error: Exception | None = None
        self._stats = AgentStats()
        self._running: dict[int, float] = {}
        self._returns: deque[float] = deque(maxlen=_LAST_EPISODES)
        self._stats_lock = threading.Lock()

    @property
    def welcome(self) -> Welcome:
        """The answer to its joining."""
        intake = self._intake
        return Welcome(self._durable, intake.policy, intake.on_policy, intake.synchronous, intake.quota)

    def take(self, chunk: Any) -> None:
        """Take a chunk in; its receipt comes later. Waits while the disk is behind.

        Raises:
            ChunkOutOfOrder: chunks are missing before it.
            StoreUnavailable: it cannot be put aside.
        """
        seq = int(chunk.seq)
        with self._intake.turn(self._key):
            self._take(seq, chunk)

    def _take(self, seq: int, chunk: Any) -> None:
        with self._intake.lock:
            taken = self._intake.taken.get(self._key, 0)
            if seq > taken + 1 or seq < 1:
                raise ChunkOutOfOrder(f"chunk {seq} came; {taken + 1} was expected")
            if seq == taken + 1:
                self._intake.taken[self._key] = seq
        with self._changed:
            self._open.add(seq)
            self._last = max(self._last, seq)
        stored = self._intake.log.holds(*self._key, seq)
        if stored or seq <= taken:  # it came before, over another connection perhaps, where it may be on its way still
            if stored or seq in self._intake.aside.get(self._key, ()):
                self._settle(seq)
            return
        try:
            self._keep(seq, chunk)
        except BaseException:
            self._take_back(seq)
            raise

    def _keep(self, seq: int, chunk: Any) -> None:
        record = Record(self.agent_id, self.incarnation, seq, chunk.SerializeToString())
        try:
            experience = self._intake.codec.check(chunk)
            if chunk.buffer != self._buffer:
                raise InvalidChunk("buffer", f"{chunk.buffer!r:.160} given; the agent joined for {self._buffer!r}")
            if self._intake.on_policy and experience.log_probs is None:
                raise InvalidChunk("log_probs", "none given; the run's algorithm needs those of the actions")
        except InvalidChunk as invalid:
            self._intake.log.put_aside(record, str(invalid))
            self._intake.aside.setdefault(self._key, set()).add(seq)
            self._reject(Rejection(seq, invalid.field, invalid.reason), int(chunk.count))
            return
        self._intake.log.append(record, lambda failed: self._stored(seq, experience, failed))

    def _take_back(self, seq: int) -> None:
        """It, and what came after it, must come again."""
        with self._intake.lock:
            self._intake.taken[self._key] = min(self._intake.taken[self._key], seq - 1)

    def receipts(self) -> Iterator[Receipt]:
        """What came of the chunks, as it becomes known, until the connection ends. Raises what ended it."""
        while True:
            with self._changed:
                self._changed.wait_for(self._has_news)
                rejected, self._rejected = tuple(self._rejected), []
                self._told, over, error = self._durable, self._over, self._error
                receipt = Receipt(self._durable, rejected, self._state)
            if error is not None:
                raise error
            yield receipt
            if receipt.ended or over:
                return

    def close_after_all(self, why: Exception | None) -> None:
        """The agent sends no more: end when everything it sent is stored, or at once with ``why``."""
        with self._changed:
            if why is None:
                self._changed.wait_for(lambda: not self._open or self._over)
        self.end(why)

    def run_ended(self, state: str) -> None:
        """Tell the agent that the run takes no more."""
        with self._changed:
            self._state = state
            self._changed.notify_all()

    def end(self, why: Exception | None = None) -> None:
        """Nothing more is taken or told; ``why`` goes to the agent."""
        with self._changed:
            self._over, self._error = True, self._error or why
            self._changed.notify_all()

    def stats(self) -> AgentStats:
        """What came since this was asked last."""
        with self._stats_lock:
            told, self._stats = self._stats, AgentStats(version=self._stats.version)
            mean = sum(self._returns) / len(self._returns) if self._returns else None
        return replace(told, mean_return=mean)

    def put_back(self, stats: AgentStats) -> None:
        """Those could not be told to anybody."""
        self._count(steps=stats.steps, episodes=stats.episodes, rejected=stats.rejected)

    def _has_news(self) -> bool:
        return self._durable > self._told or bool(self._rejected) or self._over or bool(self._state)

    def _stored(self, seq: int, experience: Experience, failed: Exception | None) -> None:
        if failed is not None:
            self._take_back(seq)
            self.end(failed)
            return
        self._learn(experience)
        self._settle(seq)
        newest = self._intake.streams.get(self._key)
        if newest is not None and newest is not self:  # it came over a connection that is gone
            newest._settle_if_open(seq)

    def _reject(self, rejection: Rejection, steps: int) -> None:
        self._count(rejected=max(steps, 0))
        with self._changed:
            self._rejected.append(rejection)
        self._settle(rejection.seq)

    def _settle_if_open(self, seq: int) -> None:
        """What did not come again yet will: chunks before it, in another shard, may still be on their way."""
        with self._changed:
            if seq not in self._open:
                return
        self._settle(seq)

    def _settle(self, seq: int) -> None:
        with self._changed:
            self._open.discard(seq)
            self._last = max(self._last, seq)
            self._durable = min(self._open) - 1 if self._open else max(self._last, self._durable)
            self._changed.notify_all()

    def _learn(self, experience: Experience) -> None:
        """Statistics of what was stored."""
        ended, row = 0, 0
        for span in experience.spans:
            total = self._running.pop(span.episode, 0.0) + float(experience.rewards[row : row + span.count].sum())
            row += span.count
            if span.terminated or span.truncated:
                ended += 1
                self._returns.append(total)
            else:
                self._running[span.episode] = total
        self._count(steps=experience.count, episodes=ended, version=experience.spans[-1].version)

    def _count(self, *, steps: int = 0, episodes: int = 0, rejected: int = 0, version: int = -1) -> None:
        with self._stats_lock:
            old = self._stats
            self._stats = AgentStats(
                old.steps + steps,
                old.episodes + episodes,
                None,
                version if version >= 0 else old.version,
                old.rejected + rejected,
            )
