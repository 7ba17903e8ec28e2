"""``SqlAgentRegistry``: the ``AgentRegistry`` on any database that SQLAlchemy speaks to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, and_, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from auxilium_rl.core.errors import AgentTaken
from auxilium_rl.core.experience.ports import AgentInfo, AgentStats
from auxilium_rl.infra.sql.clock import database_now
from auxilium_rl.infra.sql.database import reading, writing
from auxilium_rl.infra.sql.tables import agents
from auxilium_rl.infra.sql.times import from_micros

__all__ = ["SqlAgentRegistry"]


class SqlAgentRegistry:
    """An ``AgentRegistry``. Safe for any number of threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def join(self, run_id: str, agent_id: str, incarnation: str, owner: str, lease: float) -> None:
        """See ``AgentRegistry``."""
        until = database_now() + int(lease * 1e6)
        values = {"incarnation": incarnation, "owner": owner, "lease_expires_at": until, "last_seen": database_now()}
        mine = _one(run_id, agent_id)
        try:
            with writing(self._engine) as connection:
                if connection.execute(select(agents.c.run_id).where(mine)).first() is None:
                    new = {**values, "joined_at": database_now(), "steps": 0, "episodes": 0, "version": -1}
                    connection.execute(insert(agents).values(run_id=run_id, agent_id=agent_id, rejected=0, **new))
                    return
        except IntegrityError:  # somebody else made the row in that moment
            pass
        free = (agents.c.incarnation == incarnation) | (agents.c.lease_expires_at < database_now())
        with writing(self._engine) as connection:
            if connection.execute(update(agents).where(mine, free).values(**values)).rowcount != 1:
                raise AgentTaken(
                    f"agent '{agent_id}' is connected already by another start of it, or was less than {lease:g} s "
                    "ago; agents of a run need names of their own"
                )

    def report(
        self, run_id: str, agent_id: str, incarnation: str, lease: float, stats: AgentStats, *, connected: bool
    ) -> bool:
        """See ``AgentRegistry``."""
        values: dict[str, Any] = {
            "lease_expires_at": database_now() + int(lease * 1e6) if connected else 0,
            "last_seen": database_now(),
            "steps": agents.c.steps + stats.steps,
            "episodes": agents.c.episodes + stats.episodes,
            "rejected": agents.c.rejected + stats.rejected,
        }
        if stats.mean_return is not None:
            values["mean_return"] = stats.mean_return
        if stats.version >= 0:
            values["version"] = stats.version
        held = and_(_one(run_id, agent_id), agents.c.incarnation == incarnation)
        with writing(self._engine) as connection:
            return connection.execute(update(agents).where(held).values(**values)).rowcount == 1

    def list(self, run_id: str) -> Sequence[AgentInfo]:
        """See ``AgentRegistry``."""
        connected = (agents.c.lease_expires_at >= database_now()).label("connected")
        found = select(agents, connected).where(agents.c.run_id == run_id).order_by(agents.c.agent_id)
        with reading(self._engine) as connection:
            return [_info(row) for row in connection.execute(found)]

    def forget(self, run_id: str) -> None:
        """See ``AgentRegistry``."""
        with writing(self._engine) as connection:
            connection.execute(delete(agents).where(agents.c.run_id == run_id))


def _one(run_id: str, agent_id: str) -> Any:
    return and_(agents.c.run_id == run_id, agents.c.agent_id == agent_id)


def _info(row: Any) -> AgentInfo:
    stats = AgentStats(row.steps, row.episodes, row.mean_return, row.version, row.rejected)
    joined, seen = from_micros(row.joined_at), from_micros(row.last_seen)
    return AgentInfo(row.agent_id, row.incarnation, bool(row.connected), joined, seen, stats)
