"""What a run needs to be resumed: leases, attempts since its last checkpoint, the next try, the simulator's session."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("runs", sa.Column("fruitless_attempts", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("runs", sa.Column("retry_at", sa.BigInteger(), nullable=True))
    op.add_column("runs", sa.Column("lease_expires_at", sa.BigInteger(), nullable=True))
    op.add_column("runs", sa.Column("simulator_session", sa.String(length=2048), nullable=False, server_default=""))
    op.add_column("checkpoints", sa.Column("corrupt", sa.String(length=1024), nullable=False, server_default=""))
    admission = op.create_table(
        "admission",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_admission")),
    )
    op.bulk_insert(admission, [{"id": 1}])
