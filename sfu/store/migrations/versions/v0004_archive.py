"""How long recordings are kept, and who did what to them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, and make the table."""
    op.add_column("recordings", sa.Column("keep_until", sa.String(length=32), nullable=True))
    op.create_index("recordings_overdue", "recordings", ["keep_until"], unique=False)
    op.create_table(
        "recording_audit",
        sa.Column("recording_id", sa.String(length=64), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("prev", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("recording_id", "n"),
    )


def downgrade() -> None:
    """Take them away, with all that is in them."""
    op.drop_table("recording_audit")
    op.drop_index("recordings_overdue", table_name="recordings")
    op.drop_column("recordings", "keep_until")
