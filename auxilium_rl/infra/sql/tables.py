"""The tables. ``migrations/`` makes them; a test compares the two."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql

__all__ = [
    "admission",
    "agents",
    "checkpoints",
    "gym_closes",
    "health_probe",
    "metadata",
    "metrics",
    "negotiated_specs",
    "policies",
    "policy_aliases",
    "policy_clock",
    "policy_evaluations",
    "policy_tags",
    "policy_versions",
    "runs",
]

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Times are microseconds since 1970 in UTC: exact, ordered and the same on every database.
_Time = BigInteger
_Serial = BigInteger().with_variant(Integer, "sqlite")
_LongText = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
# Names compare by their bytes on every database.
_Name = String(128).with_variant(mysql.VARCHAR(128, collation="utf8mb4_bin"), "mysql", "mariadb")

runs = Table(
    "runs",
    metadata,
    Column("number", _Serial, primary_key=True, autoincrement=True),
    Column("run_id", String(64), nullable=False, unique=True),
    Column("experiment_id", String(512), nullable=False),
    Column("algorithm", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("spec", _LongText, nullable=False),
    Column("error_message", _LongText, nullable=False, default=""),
    Column("state_reason", _LongText, nullable=False, default=""),
    Column("timesteps_done", BigInteger, nullable=False, default=0),
    Column("steps_per_second", Double, nullable=False, default=0.0),
    Column("attempt", Integer, nullable=False, default=0),
    Column("lease_epoch", Integer, nullable=False, default=0),
    Column("lease_owner", String(64), nullable=False, default=""),
    Column("stop_requested", String(16), nullable=False, default=""),
    # Bytes, so that keys compare exactly on every database.
    Column("idempotency_key", LargeBinary(512).with_variant(mysql.VARBINARY(512), "mysql", "mariadb"), unique=True),
    Column("request_digest", String(64), nullable=False, default=""),
    Column("output_path_digest", String(64), nullable=False, default=""),
    Column("exported_path", _LongText, nullable=False, default=""),
    Column("log_tail", _LongText, nullable=False, default=""),
    Column("engine", String(512), nullable=False, default=""),
    Column("fruitless_attempts", Integer, nullable=False, default=0, server_default="0"),
    # When an INTERRUPTED run may be tried again; NULL: at once.
    Column("retry_at", _Time),
    # By the database's clock; NULL: no worker holds the run.
    Column("lease_expires_at", _Time),
    Column("simulator_session", String(2048), nullable=False, default="", server_default=""),
    Column("parent_run_id", String(64), nullable=False, default="", server_default="", index=True),
    # Before attempt_started_at, since MariaDB assigns in this order and the one is added to the other.
    Column("active_seconds", Double, nullable=False, default=0.0, server_default="0"),
    Column("attempt_started_at", _Time),
    Column("created_at", _Time, nullable=False),
    Column("updated_at", _Time, nullable=False),
    Column("started_at", _Time),
    Column("finished_at", _Time),
    Index(None, "state", "number"),
    Index(None, "output_path_digest", "finished_at"),
    Index(None, "experiment_id", "number"),
    Index(None, "algorithm", "number"),
    Index(None, "algorithm", "state", "number"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("run_id", String(64), ForeignKey("runs.run_id"), primary_key=True),
    Column("timesteps", BigInteger, primary_key=True, autoincrement=False),
    Column("path", _LongText, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("manifest_sha256", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("created_at", _Time, nullable=False),
    Column("corrupt", String(1024), nullable=False, default="", server_default=""),
    Column("score", Double),
)

metrics = Table(
    "metrics",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("run_id", String(64), nullable=False),
    Column("key", String(255), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("value", Double),
    # "nan", "inf" or "-inf": not every database stores them as numbers.
    Column("special", String(4)),
    Column("time", _Time, nullable=False),
    UniqueConstraint("run_id", "key", "step"),
    Index(None, "run_id", "id"),
)

negotiated_specs = Table(
    "negotiated_specs",
    metadata,
    Column("experiment_digest", String(64), primary_key=True),
    Column("experiment_id", String(512), nullable=False),
    Column("spec", _LongText, nullable=False),
    Column("updated_at", _Time, nullable=False),
)

gym_closes = Table(
    "gym_closes",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("run_id", String(64), nullable=False, index=True),
    Column("address", String(512), nullable=False),
    Column("gym_id", String(512), nullable=False),
    # When the next attempt is due; NULL: not yet owed, because the run goes on.
    Column("due_at", _Time, index=True),
    Column("attempts", Integer, nullable=False, default=0),
    Column("last_error", _LongText, nullable=False, default=""),
    # How it ended; empty: it is still owed.
    Column("outcome", String(255), nullable=False, default=""),
)

# One row: whoever decides whether a run is taken in holds its lock.
admission = Table("admission", metadata, Column("id", Integer, primary_key=True, autoincrement=False))

health_probe = Table(
    "health_probe",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("probed_at", _Time, nullable=False),
)

policies = Table(
    "policies",
    metadata,
    Column("name", _Name, primary_key=True),
    Column("next_version", Integer, nullable=False, default=0),
    Column("notes", _LongText, nullable=False, default=""),
    Column("criterion", String(255), nullable=False, default="mean_return"),
    Column("minimize", Integer, nullable=False, default=0),
    Column("created_at", _Time, nullable=False),
    Column("updated_at", _Time, nullable=False),
)

policy_versions = Table(
    "policy_versions",
    metadata,
    Column("name", _Name, ForeignKey("policies.name"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("run_id", String(64), nullable=False),
    Column("algorithm", String(32), nullable=False),
    Column("timesteps", BigInteger, nullable=False),
    Column("contract_hash", String(64), nullable=False),
    Column("path", _LongText, nullable=False),
    Column("manifest_sha256", String(64), nullable=False),
    Column("files", _LongText, nullable=False),
    Column("metrics", _LongText, nullable=False),
    Column("created_at", _Time, nullable=False),
    UniqueConstraint("name", "run_id", "timesteps"),
)

policy_aliases = Table(
    "policy_aliases",
    metadata,
    Column("name", _Name, ForeignKey("policies.name"), primary_key=True),
    Column("alias", _Name, primary_key=True),
    Column("version", Integer, nullable=False),
)

policy_tags = Table(
    "policy_tags",
    metadata,
    Column("name", _Name, ForeignKey("policies.name"), primary_key=True),
    Column("key", _Name, primary_key=True),
    Column("value", _Name, nullable=False),
)

policy_evaluations = Table(
    "policy_evaluations",
    metadata,
    Column("id", _Serial, primary_key=True, autoincrement=True),
    Column("name", _Name, ForeignKey("policies.name"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("environment", String(512), nullable=False),
    Column("body", _LongText, nullable=False),
    Column("created_at", _Time, nullable=False),
    Index(None, "name", "version"),
)

# Who pushes experience to which run.
agents = Table(
    "agents",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("agent_id", _Name, primary_key=True),
    Column("incarnation", _Name, nullable=False),
    Column("owner", String(64), nullable=False),
    # By the database's clock; 0: it is not connected.
    Column("lease_expires_at", _Time, nullable=False),
    Column("joined_at", _Time, nullable=False),
    Column("last_seen", _Time, nullable=False),
    Column("steps", BigInteger, nullable=False, default=0),
    Column("episodes", BigInteger, nullable=False, default=0),
    Column("mean_return", Double),
    Column("version", Integer, nullable=False, default=-1),
    Column("rejected", BigInteger, nullable=False, default=0),
)

# One row, which rises with every change of a policy: whoever follows policies looks at it alone.
policy_clock = Table(
    "policy_clock",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("value", BigInteger, nullable=False),
)
