"""``SqlPolicyRegistry``: the ``PolicyRegistry`` on any database that SQLAlchemy speaks to."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import Connection, Engine, Table, and_, delete, exists, insert, select, update

from auxilium_rl.core.errors import InvalidRequest, PolicyNotFound, VersionInUse
from auxilium_rl.core.policies import (
    BEST,
    LATEST,
    Criterion,
    Evaluation,
    NewVersion,
    Policy,
    PolicyPage,
    PolicyVersion,
)
from auxilium_rl.infra.sql.clock import database_now
from auxilium_rl.infra.sql.database import reading, writing
from auxilium_rl.infra.sql.policy_rows import policy_of_rows, tick, version_of
from auxilium_rl.infra.sql.run_rows import held_by
from auxilium_rl.infra.sql.tables import (
    agents,
    policies,
    policy_aliases,
    policy_clock,
    policy_evaluations,
    policy_tags,
    policy_versions,
    runs,
)
from auxilium_rl.infra.sql.times import to_micros

__all__ = ["SqlPolicyRegistry"]


class SqlPolicyRegistry:
    """A ``PolicyRegistry``. Safe for any number of threads and processes."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc)) -> None:
        self._engine, self._clock = engine, clock

    # -- looking

    def change(self) -> int:
        """See ``PolicyRegistry``."""
        with reading(self._engine) as connection:
            return int(connection.execute(select(policy_clock.c.value)).scalar_one())

    def find(self, name: str, reference: str = "") -> PolicyVersion:
        """See ``PolicyRegistry``."""
        with reading(self._engine) as connection:
            return self._find(connection, name, reference)

    def get(self, name: str) -> Policy:
        """See ``PolicyRegistry``."""
        with reading(self._engine) as connection:
            return self._get(connection, name)

    def list(self, *, page_size: int = 50, page_token: str = "", tags: Mapping[str, str] | None = None) -> PolicyPage:
        """See ``PolicyRegistry``."""
        statement = select(policies.c.name).where(policies.c.name > page_token).order_by(policies.c.name)
        for key, value in (tags or {}).items():
            has = and_(policy_tags.c.name == policies.c.name, policy_tags.c.key == key, policy_tags.c.value == value)
            statement = statement.where(exists().where(has))
        with reading(self._engine) as connection:
            names = builtins.list(connection.execute(statement.limit(page_size + 1)).scalars())
            found = self._several(connection, names[:page_size], evaluations=False)
        return PolicyPage(found, names[page_size - 1] if len(names) > page_size else "")

    def paths(self) -> Collection[str]:
        """See ``PolicyRegistry``."""
        with reading(self._engine) as connection:
            return set(connection.execute(select(policy_versions.c.path)).scalars())

    # -- versions

    def publish(self, new: NewVersion, epoch: int | None = None) -> PolicyVersion | None:
        """See ``PolicyRegistry``."""
        with writing(self._engine) as connection:
            if epoch is not None and not _holds(connection, new.run_id, epoch):
                return None
            policy = self._locked(connection, new.name, make=True)
            same = and_(policy_versions.c.run_id == new.run_id, policy_versions.c.timesteps == new.timesteps)
            known = connection.execute(_versions(new.name).where(same)).one_or_none()
            if known is not None:
                return version_of(known)
            other = connection.execute(_versions(new.name).limit(1)).one_or_none()
            if other is not None and other.contract_hash != new.contract_hash:
                raise InvalidRequest.of(
                    "policy_name",
                    f"'{new.name}' given, whose versions have the contract {other.contract_hash[:12]}…; this one has "
                    f"{new.contract_hash[:12]}…: other spaces need another name",
                )
            number = policy.next_version if not new.timesteps else max(policy.next_version, 1)
            connection.execute(insert(policy_versions).values(**_version_row(new, number)))
            self._touch(connection, new.name, next_version=number + 1)
            self._point(connection, new.name, LATEST, number)
            return self._find(connection, new.name, str(number))

    def delete_version(self, name: str, version: int) -> PolicyVersion:
        """See ``PolicyRegistry``."""
        with writing(self._engine) as connection:
            self._locked(connection, name)
            found = self._find(connection, name, str(version))
            if found.aliases:
                raise VersionInUse(f"{name}@{version} is what {', '.join(found.aliases)} points to; move that first")
            acting = _acting_with(connection, found)
            if acting:
                raise VersionInUse(f"{name}@{version} is what the agents {', '.join(acting)} act with")
            for table in (policy_evaluations, policy_versions):
                connection.execute(delete(table).where(table.c.name == name, table.c.version == version))
            self._touch(connection, name)
            return found

    def delete(self, name: str) -> Policy:
        """See ``PolicyRegistry``."""
        with writing(self._engine) as connection:
            self._locked(connection, name)
            gone = self._get(connection, name, evaluations=False)
            parts: Sequence[Table] = (policy_evaluations, policy_tags, policy_aliases, policy_versions, policies)
            for table in parts:
                connection.execute(delete(table).where(table.c.name == name))
            tick(connection)
            return gone

    # -- what may change

    def set_alias(self, name: str, alias: str, version: int) -> Policy:
        """See ``PolicyRegistry``."""
        with writing(self._engine) as connection:
            self._locked(connection, name)
            self._find(connection, name, str(version))
            self._point(connection, name, alias, version)
            self._touch(connection, name)
            return self._get(connection, name)

    def delete_alias(self, name: str, alias: str) -> Policy:
        """See ``PolicyRegistry``."""
        with writing(self._engine) as connection:
            self._locked(connection, name)
            theirs = and_(policy_aliases.c.name == name, policy_aliases.c.alias == alias)
            if not connection.execute(delete(policy_aliases).where(theirs)).rowcount:
                raise PolicyNotFound(f"policy '{name}' has no alias '{alias}'")
            self._touch(connection, name)
            return self._get(connection, name)

    def update(
        self,
        name: str,
        *,
        set_tags: Mapping[str, str],
        remove_tags: Collection[str],
        notes: str | None,
        criterion: Criterion | None,
    ) -> Policy:
        """See ``PolicyRegistry``."""
        with writing(self._engine) as connection:
            self._locked(connection, name)
            gone = and_(policy_tags.c.name == name, policy_tags.c.key.in_([*set_tags, *remove_tags]))
            connection.execute(delete(policy_tags).where(gone))
            for key, value in set_tags.items():
                connection.execute(insert(policy_tags).values(name=name, key=key, value=value))
            values: dict[str, Any] = {} if notes is None else {"notes": notes}
            if criterion is not None:
                values |= {"criterion": criterion.key, "minimize": int(criterion.minimize)}
            self._touch(connection, name, **values)
            if criterion is not None:
                self._choose_best(connection, name)
            return self._get(connection, name)

    def add_evaluation(
        self, name: str, version: int, evaluation: Evaluation, held: tuple[str, int] | None = None
    ) -> Evaluation | None:
        """See ``PolicyRegistry``."""
        with writing(self._engine) as connection:
            if held is not None and not _holds(connection, *held):
                return None
            self._locked(connection, name)
            self._find(connection, name, str(version))
            body = asdict(replace(evaluation, environment="", created_at=datetime.min, id=0))
            del body["environment"], body["created_at"], body["id"]
            made = connection.execute(
                insert(policy_evaluations).values(
                    name=name,
                    version=version,
                    environment=evaluation.environment,
                    body=json.dumps(body),
                    created_at=to_micros(evaluation.created_at),
                )
            )
            self._touch(connection, name)
            self._choose_best(connection, name)
            (number,) = made.inserted_primary_key or (0,)
            return replace(evaluation, id=int(number))

    # -- inside of a transaction

    def _now(self) -> int:
        return to_micros(self._clock())

    def _locked(self, connection: Connection, name: str, *, make: bool = False) -> Any:
        """The policy's row. Nobody else changes any policy until the end of the transaction."""
        # A row that is there for sure: locks on one that is not yet there may block each other.
        connection.execute(select(policy_clock.c.id).with_for_update())
        mine = select(policies).where(policies.c.name == name)
        row = connection.execute(mine).one_or_none()
        if row is None and make:
            now = self._now()
            connection.execute(insert(policies).values(name=name, created_at=now, updated_at=now))
            row = connection.execute(mine).one()
        if row is None:
            raise PolicyNotFound(f"there is no policy '{name}'")
        return row

    def _touch(self, connection: Connection, name: str, **values: Any) -> None:
        connection.execute(update(policies).where(policies.c.name == name).values(**values, updated_at=self._now()))
        tick(connection)

    @staticmethod
    def _point(connection: Connection, name: str, alias: str, version: int) -> None:
        theirs = and_(policy_aliases.c.name == name, policy_aliases.c.alias == alias)
        if not connection.execute(update(policy_aliases).where(theirs).values(version=version)).rowcount:
            connection.execute(delete(policy_aliases).where(theirs))  # MariaDB counts only rows that changed
            connection.execute(insert(policy_aliases).values(name=name, alias=alias, version=version))

    def _find(self, connection: Connection, name: str, reference: str) -> PolicyVersion:
        statement = _versions(name)
        if reference.isdigit():
            statement = statement.where(policy_versions.c.version == min(int(reference), 2**31 - 1))
        else:
            pointed = select(policy_aliases.c.version).where(
                policy_aliases.c.name == name, policy_aliases.c.alias == (reference or LATEST)
            )
            statement = statement.where(policy_versions.c.version == pointed.scalar_subquery())
        row = connection.execute(statement).one_or_none()
        if row is None:
            raise self._missing(connection, name, reference)
        pointing = select(policy_aliases.c.alias).where(
            policy_aliases.c.name == name, policy_aliases.c.version == row.version
        )
        return version_of(row, aliases=tuple(connection.execute(pointing.order_by(policy_aliases.c.alias)).scalars()))

    def _missing(self, connection: Connection, name: str, reference: str) -> PolicyNotFound:
        try:
            policy = self._get(connection, name, evaluations=False)
        except PolicyNotFound as error:
            return error
        versions = ", ".join(str(version.version) for version in policy.versions[-20:])
        return PolicyNotFound(
            f"policy '{name}' has no version or alias '{reference}'; "
            f"it has the versions {versions} and the aliases {', '.join(policy.aliases)}"
        )

    def _get(self, connection: Connection, name: str, *, evaluations: bool = True) -> Policy:
        found = self._several(connection, [name], evaluations=evaluations)
        if not found:
            raise PolicyNotFound(f"there is no policy '{name}'")
        return found[0]

    @staticmethod
    def _several(connection: Connection, names: Sequence[str], *, evaluations: bool) -> tuple[Policy, ...]:
        """The policies of these names, by name, in a number of statements that does not depend on how many."""

        def rows(table: Table, *order: Any) -> dict[str, builtins.list[Any]]:
            found: dict[str, builtins.list[Any]] = {}
            for row in connection.execute(select(table).where(table.c.name.in_(names)).order_by(*order)):
                found.setdefault(row.name, []).append(row)
            return found

        aliases = rows(policy_aliases, policy_aliases.c.alias)
        made = rows(policy_evaluations, policy_evaluations.c.id) if evaluations else {}
        versions = rows(policy_versions, policy_versions.c.version)
        tags = rows(policy_tags, policy_tags.c.key)
        return tuple(
            policy_of_rows(row, *(part.get(name, []) for part in (versions, aliases, tags, made)))
            for name, (row,) in rows(policies, policies.c.name).items()
        )

    def _choose_best(self, connection: Connection, name: str) -> None:
        """Point ``best`` to the version whose newest evaluation is the best of those on one environment.

        Evaluations on different environments cannot be compared: those on the one that was used last count.
        """
        policy = self._get(connection, name)
        made = [(one, version) for version in policy.versions for one in version.evaluations]
        if not made:
            return
        environment = max(made, key=lambda pair: pair[0].id)[0].environment
        scores: dict[int, float] = {}
        for evaluation, version in made:  # oldest first, so that of each version the newest stays
            score = evaluation.score(policy.criterion)
            if evaluation.environment == environment and score is not None:
                scores[version.version] = score
        if scores:
            self._point(connection, name, BEST, max(scores, key=lambda number: (scores[number], number)))


def _acting_with(connection: Connection, version: PolicyVersion) -> builtins.list[str]:
    """The agents that are connected, to whichever server, and acted with a version last."""
    connected = agents.c.lease_expires_at >= database_now()
    theirs = and_(agents.c.run_id == version.run_id, agents.c.version == version.version, connected)
    return builtins.list(connection.execute(select(agents.c.agent_id).where(theirs)).scalars())


def _holds(connection: Connection, run_id: str, epoch: int) -> bool:
    """Whether a worker's lease is good, and stays so until the end of the transaction."""
    return (
        connection.execute(select(runs.c.number).where(held_by(run_id, epoch)).with_for_update()).scalar() is not None
    )


def _versions(name: str) -> Any:
    return select(policy_versions).where(policy_versions.c.name == name).order_by(policy_versions.c.version)


def _version_row(new: NewVersion, number: int) -> dict[str, Any]:
    row = {**asdict(new), "version": number, "created_at": to_micros(new.created_at)}
    return {**row, "files": json.dumps(row["files"]), "metrics": json.dumps(dict(new.metrics))}
