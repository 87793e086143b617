"""The tables: calls and who is in them, events and who has which, conversations.

A call is one document, because it changes as a whole; beside it stand the columns by which it is
found. `sfu/store/migrations/` makes the same tables, step by step.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
)

# The longest id that a host application gives a user or a conversation.
ID = String(255)

metadata = MetaData()

calls = Table(
    "calls",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("status", String(16), nullable=False),
    Column("conversation_id", ID),
    # RFC 3339 in UTC: it sorts by itself.
    Column("created_at", String(32), nullable=False),
    # When a ring times out, in seconds since 1970; null: nothing is due.
    Column("due_at", Float),
    Column("document", JSON, nullable=False),
    Index("calls_due", "due_at"),
    Index("calls_open", "status"),
    Index("calls_of_conversation", "conversation_id", "created_at"),
)

call_users = Table(
    "call_users",
    metadata,
    Column("user_id", ID, nullable=False),
    Column("call_id", String(64), nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("is_open", Boolean, nullable=False),
    PrimaryKeyConstraint("user_id", "call_id"),
    Index("call_users_open", "user_id", "is_open"),
    Index("call_users_of_call", "call_id"),
)

# What happened to a call, in order: its timeline.
call_events = Table(
    "call_events",
    metadata,
    Column("call_id", String(64), nullable=False),
    Column("number", Integer, nullable=False),
    Column("type", String(64), nullable=False),
    Column("event_id", String(64), nullable=False),
    Column("at", String(32), nullable=False),
    Column("data", JSON, nullable=False),
    PrimaryKeyConstraint("call_id", "number"),
)

users = Table(
    "users",
    metadata,
    Column("id", ID, primary_key=True),
    # Number of his last event.
    Column("last_seq", BigInteger, nullable=False),
)

user_events = Table(
    "user_events",
    metadata,
    Column("user_id", ID, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("event_id", String(64), nullable=False),
    Column("type", String(64), nullable=False),
    Column("data", JSON, nullable=False),
    Column("not_for", String(64)),
    PrimaryKeyConstraint("user_id", "seq"),
)

# Which call a repeated request made.
idempotency = Table(
    "idempotency",
    metadata,
    Column("user_id", ID, nullable=False),
    Column("key", String(128), nullable=False),
    Column("call_id", String(64), nullable=False),
    Column("at", Float, nullable=False),
    PrimaryKeyConstraint("user_id", "key"),
    Index("idempotency_age", "at"),
)

conversations = Table(
    "conversations",
    metadata,
    Column("id", ID, primary_key=True),
    Column("document", JSON, nullable=False),
)

conversation_users = Table(
    "conversation_users",
    metadata,
    Column("conversation_id", ID, nullable=False),
    Column("user_id", ID, nullable=False),
    PrimaryKeyConstraint("conversation_id", "user_id"),
    Index("conversation_users_of_user", "user_id"),
)

# The server processes on this database, and when each said last that it lives.
processes = Table(
    "processes",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("seen_at", Float, nullable=False),
)

# Where the host application wants to be told, and which number it was told last.
webhooks = Table(
    "webhooks",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("url", String(2048), nullable=False),
    # Types of events; empty: all of them.
    Column("types", JSON, nullable=False),
    Column("secret", String(128), nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("last_seq", BigInteger, nullable=False),
)

# What they are still to be told, and what they were told lately.
deliveries = Table(
    "deliveries",
    metadata,
    Column("webhook_id", String(64), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("body", JSON, nullable=False),
    Column("attempts", Integer, nullable=False),
    # When it is tried next, in seconds since 1970; null: it arrived, or was given up.
    Column("next_at", Float),
    Column("created_at", Float, nullable=False),
    Column("error", String(255)),
    PrimaryKeyConstraint("webhook_id", "seq"),
    Index("deliveries_next", "next_at"),
)

notifications = Table(
    "notifications",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("user_id", ID, nullable=False),
    Column("verb", String(64), nullable=False),
    Column("data", JSON, nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("read_at", String(32)),
    Index("notifications_of_user", "user_id", "created_at"),
)

# What is known of each recording; its files are where the recorder keeps them.
recordings = Table(
    "recordings",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("call_id", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("document", JSON, nullable=False),
    # When it is erased, RFC 3339 in UTC; null: never, or not while it is held.
    Column("keep_until", String(32)),
    Index("recordings_of_call", "call_id", "created_at"),
    Index("recordings_by_age", "created_at"),
    Index("recordings_overdue", "keep_until"),
)

# Who read, held, exported or erased a recording: each entry holds the hash of the one before.
recording_audit = Table(
    "recording_audit",
    metadata,
    Column("recording_id", String(64), nullable=False),
    Column("n", Integer, nullable=False),
    Column("at", String(32), nullable=False),
    Column("action", String(32), nullable=False),
    Column("user_id", ID, nullable=False),
    Column("detail", JSON, nullable=False),
    Column("prev", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    PrimaryKeyConstraint("recording_id", "n"),
)
