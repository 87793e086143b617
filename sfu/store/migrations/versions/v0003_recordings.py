"""Recordings."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "recordings",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("call_id", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("recordings_of_call", "recordings", ["call_id", "created_at"], unique=False)
    op.create_index("recordings_by_age", "recordings", ["created_at"], unique=False)


def downgrade() -> None:
    """Take it away, with all that is in it."""
    op.drop_index("recordings_by_age", table_name="recordings")
    op.drop_index("recordings_of_call", table_name="recordings")
    op.drop_table("recordings")
