"""Calls, events, conversations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "call_events",
        sa.Column("call_id", sa.String(length=64), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("event_id", sa.String(length=64), nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("call_id", "number"),
    )
    op.create_table(
        "call_users",
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("call_id", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "call_id"),
    )
    op.create_index("call_users_of_call", "call_users", ["call_id"], unique=False)
    op.create_index("call_users_open", "call_users", ["user_id", "is_open"], unique=False)
    op.create_table(
        "calls",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("conversation_id", sa.String(length=255), nullable=True),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.Column("due_at", sa.Float(), nullable=True),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("calls_due", "calls", ["due_at"], unique=False)
    op.create_index("calls_of_conversation", "calls", ["conversation_id", "created_at"], unique=False)
    op.create_index("calls_open", "calls", ["status"], unique=False)
    op.create_table(
        "conversation_users",
        sa.Column("conversation_id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", "user_id"),
    )
    op.create_index("conversation_users_of_user", "conversation_users", ["user_id"], unique=False)
    op.create_table(
        "conversations",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "idempotency",
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("call_id", sa.String(length=64), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "key"),
    )
    op.create_index("idempotency_age", "idempotency", ["at"], unique=False)
    op.create_table(
        "processes",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "user_events",
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.String(length=64), nullable=False),
        sa.Column("type", sa.String(length=64), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("not_for", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("user_id", "seq"),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def downgrade() -> None:
    """Take them away, with all that is in them."""
    op.drop_table("users")
    op.drop_table("user_events")
    op.drop_table("processes")
    op.drop_index("idempotency_age", table_name="idempotency")
    op.drop_table("idempotency")
    op.drop_table("conversations")
    op.drop_index("conversation_users_of_user", table_name="conversation_users")
    op.drop_table("conversation_users")
    op.drop_index("calls_open", table_name="calls")
    op.drop_index("calls_of_conversation", table_name="calls")
    op.drop_index("calls_due", table_name="calls")
    op.drop_table("calls")
    op.drop_index("call_users_open", table_name="call_users")
    op.drop_index("call_users_of_call", table_name="call_users")
    op.drop_table("call_users")
    op.drop_table("call_events")
