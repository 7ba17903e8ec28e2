"""Policies: names, versions, aliases, tags, evaluations."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0004"
down_revision = "0003"

_NAME = sa.String(128).with_variant(mysql.VARCHAR(128, collation="utf8mb4_bin"), "mysql", "mariadb")
_TEXT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "policies",
        sa.Column("name", _NAME, nullable=False),
        sa.Column("next_version", sa.Integer(), nullable=False),
        sa.Column("notes", _TEXT, nullable=False),
        sa.Column("criterion", sa.String(255), nullable=False),
        sa.Column("minimize", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_policies")),
    )
    _versions()
    for table, second, third in (("aliases", "alias", sa.Integer()), ("tags", "key", _NAME)):
        op.create_table(
            f"policy_{table}",
            sa.Column("name", _NAME, nullable=False),
            sa.Column(second, _NAME, nullable=False),
            sa.Column("version" if table == "aliases" else "value", third, nullable=False),
            sa.ForeignKeyConstraint(["name"], ["policies.name"], name=op.f(f"fk_policy_{table}_name")),
            sa.PrimaryKeyConstraint("name", second, name=op.f(f"pk_policy_{table}")),
        )
    op.create_table(
        "policy_evaluations",
        sa.Column("id", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("name", _NAME, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("environment", sa.String(512), nullable=False),
        sa.Column("body", _TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["name"], ["policies.name"], name=op.f("fk_policy_evaluations_name")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_policy_evaluations")),
    )
    op.create_index(op.f("ix_policy_evaluations_name_version"), "policy_evaluations", ["name", "version"])
    clock = op.create_table(
        "policy_clock",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_policy_clock")),
    )
    op.bulk_insert(clock, [{"id": 1, "value": 0}])


def _versions() -> None:
    op.create_table(
        "policy_versions",
        sa.Column("name", _NAME, nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("algorithm", sa.String(32), nullable=False),
        sa.Column("timesteps", sa.BigInteger(), nullable=False),
        sa.Column("contract_hash", sa.String(64), nullable=False),
        sa.Column("path", _TEXT, nullable=False),
        sa.Column("manifest_sha256", sa.String(64), nullable=False),
        sa.Column("files", _TEXT, nullable=False),
        sa.Column("metrics", _TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["name"], ["policies.name"], name=op.f("fk_policy_versions_name")),
        sa.PrimaryKeyConstraint("name", "version", name=op.f("pk_policy_versions")),
        sa.UniqueConstraint("name", "run_id", "timesteps", name=op.f("uq_policy_versions_name_run_id_timesteps")),
    )
