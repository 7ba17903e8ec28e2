"""``ShardedLog``: what a server takes for a run whose experience lies in replay shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import structlog

from auxilium_rl.core.errors import StoreUnavailable
from auxilium_rl.core.experience.layout import Layout, contiguous
from auxilium_rl.core.experience.ports import ExperienceLog, Record
from auxilium_rl.infra.experience.log import put_aside
from auxilium_rl.infra.experience.reader import SegmentReader
from auxilium_rl.infra.replay.frames import Shards, part_folder, reply_of
from auxilium_rl.infra.replay.link import PartLink
from auxilium_rl.infra.replay.processes import ReplayProcesses
from generated.auxilium.v1 import replay_pb2 as pb

__all__ = ["ReplayLogs", "ShardedLog"]

_log = structlog.get_logger(__name__)
_FORGET_SECONDS = 10.0
_Key = tuple[str, str]


class ShardedLog:
    """An ``ExperienceLog`` over all parts of a run.

    Args:
        aside: folder of chunks that cannot be learned from.

    Raises:
        StoreUnavailable: a shard is away.
    """

    def __init__(self, shards: Shards, layout: Layout, aside: Path) -> None:
        self._layout, self._aside_folder = layout, aside
        self._aside: dict[_Key, set[int]] = {}
        self._links: list[PartLink] = []
        self.broken = False
        try:
            for part in range(layout.parts):
                self._links.append(PartLink(shards, layout, part, self._break))
        except BaseException:
            self.close()
            raise

    @property
    def durable(self) -> Mapping[_Key, int]:
        """See ``ExperienceLog``: of each incarnation the chunk up to which all parts together have everything."""
        keys = {key for link in self._links for key in list(link.durable)}
        return {key: self._durable(key) for key in keys}

    def _durable(self, key: _Key) -> int:
        return contiguous([link.durable.get(key, 0) for link in self._links], self._aside.get(key, frozenset()))

    def holds(self, agent_id: str, incarnation: str, seq: int) -> bool:
        """See ``ExperienceLog``."""
        link = self._links[self._layout.part_of(seq)]
        return seq <= link.durable.get((agent_id, incarnation), 0)

    def append(self, record: Record, stored: Callable[[Exception | None], None]) -> None:
        """See ``ExperienceLog``."""
        self._links[self._layout.part_of(record.seq)].append(record, stored)

    def put_aside(self, record: Record, reason: str) -> None:
        """See ``ExperienceLog``."""
        put_aside(self._aside_folder, record, reason)
        self._aside.setdefault((record.agent_id, record.incarnation), set()).add(record.seq)

    def close(self) -> None:
        """See ``ExperienceLog``."""
        for link in self._links:
            link.close()

    def _break(self, error: Exception) -> None:
        """What one part refused leaves a gap: after it nothing may be stored in any."""
        _log.error("experience_not_stored", run_id=self._layout.run_id, reason=str(error))
        self.broken = True
        for link in self._links:
            link.fail(error)


class ReplayLogs:
    """``ShardedLogs`` below one folder.

    Args:
        server: names this one, always the same.
    """

    def __init__(self, root: Path, server: str, processes: ReplayProcesses) -> None:
        self._root, self._server, self._processes = root, server, processes

    def open(self, layout: Layout) -> ExperienceLog:
        """See ``ShardedLogs``."""
        return ShardedLog(self._processes.shards(), layout, self._root / layout.run_id / self._server)

    def read(self, layout: Layout) -> Sequence[Iterator[Record]]:
        """See ``ShardedLogs``."""
        folder = self._root / layout.run_id
        return [SegmentReader(folder, part_folder(part)).read() for part in range(layout.parts)]

    def forget(self, run_id: str) -> None:
        """See ``ShardedLogs``. A shard that is away holds nothing."""
        if not self._processes.begun:
            return
        shards = self._processes.shards()
        for number in range(shards.processes):
            try:
                lane = shards.connect_to(number)
                try:
                    lane.settimeout(_FORGET_SECONDS)
                    lane.send(pb.ShardRequest(forget=pb.ForgetRun(run_id=run_id)).SerializeToString())
                    reply_of(lane)
                finally:
                    lane.close()
            except (OSError, StoreUnavailable) as error:
                _log.warning("replay_shard_not_told", run_id=run_id, shard=number, reason=str(error))
