"""Agents that push experience."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0005"
down_revision = "0004"

_NAME = sa.String(128).with_variant(mysql.VARCHAR(128, collation="utf8mb4_bin"), "mysql", "mariadb")


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "agents",
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("agent_id", _NAME, nullable=False),
        sa.Column("incarnation", _NAME, nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("lease_expires_at", sa.BigInteger(), nullable=False),
        sa.Column("joined_at", sa.BigInteger(), nullable=False),
        sa.Column("last_seen", sa.BigInteger(), nullable=False),
        sa.Column("steps", sa.BigInteger(), nullable=False),
        sa.Column("episodes", sa.BigInteger(), nullable=False),
        sa.Column("mean_return", sa.Double()),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("rejected", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "agent_id", name="pk_agents"),
    )
