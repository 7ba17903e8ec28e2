"""Runs made of others, time spent, scores of checkpoints; indexes for pages of one experiment or algorithm."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns and indexes."""
    op.add_column("runs", sa.Column("parent_run_id", sa.String(length=64), nullable=False, server_default=""))
    op.add_column("runs", sa.Column("active_seconds", sa.Double(), nullable=False, server_default="0"))
    op.add_column("runs", sa.Column("attempt_started_at", sa.BigInteger(), nullable=True))
    op.add_column("checkpoints", sa.Column("score", sa.Double(), nullable=True))
    listed = (["experiment_id", "number"], ["algorithm", "number"], ["algorithm", "state", "number"])
    for columns in (["parent_run_id"], *listed):
        op.create_index(op.f(f"ix_runs_{'_'.join(columns)}"), "runs", columns)
