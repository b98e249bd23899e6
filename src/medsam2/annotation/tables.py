"""The tables of a project's database; the files in `migrations` bring an old one to this state."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

# Names of constraints that are ours, so that a migration can speak of them in every database.
METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Times are milliseconds since 1970 in UTC: one number in every database, and what browsers send.
PROJECTS = Table(
    "projects",
    METADATA,
    Column("key", String(32), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("round", Integer, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)

CASES = Table(
    "cases",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("project", ForeignKey("projects.key"), nullable=False),
    Column("name", String(200), nullable=False),
    Column("path", String(1000), nullable=False),  # below the project's folder
    Column("num_slices", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("owner", String(64)),  # who worked on it last
    Column("lock_user", String(64)),
    Column("lock_until_ms", BigInteger),
    Column("updated_ms", BigInteger, nullable=False),
    UniqueConstraint("project", "name"),
)

VERSIONS = Table(
    "versions",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("case", ForeignKey("cases.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("is_proposal", Boolean, nullable=False),
    Column("is_done", Boolean, nullable=False),
    Column("author", String(64), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("round", Integer, nullable=False),
    Column("path", String(1000), nullable=False),  # below the project's folder
    Column("sha256", String(64), nullable=False),
    Column("num_bytes", BigInteger, nullable=False),
    Column("objects", JSON, nullable=False),  # label -> name, colour, voxels
    Column("prompts", JSON, nullable=False),
    Column("weights", String(1000)),
    Column("weights_sha256", String(64)),
    UniqueConstraint("case", "number"),
)

DRAFTS = Table(
    "drafts",
    METADATA,
    Column("case", ForeignKey("cases.id"), primary_key=True),
    Column("user", String(64), primary_key=True),
    Column("content", Text, nullable=False),  # JSON in ASCII
    Column("updated_ms", BigInteger, nullable=False),
)

CHANGES = Table(
    "changes",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("case", ForeignKey("cases.id"), nullable=False, index=True),
    Column("user", String(64), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("before", String(16), nullable=False),
    Column("after", String(16), nullable=False),
    Column("comment", Text, nullable=False),
)

EVENTS = Table(
    "events",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("case", ForeignKey("cases.id"), nullable=False),
    Column("user", String(64), nullable=False),
    Column("kind", String(24), nullable=False),
    Column("object", Integer, nullable=False),  # 0 where it is about none
    Column("at_ms", BigInteger, nullable=False),  # by the clock of the user's machine
    Column("voxels", BigInteger, nullable=False),
    Column("baseline", Boolean, nullable=False),
    Column("round", Integer, nullable=False),
    # An event that is sent again after a broken connection is one event.
    UniqueConstraint("case", "user", "at_ms", "kind", "object"),
)

ROUNDS = Table(
    "rounds",
    METADATA,
    Column("project", ForeignKey("projects.key"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("user", String(64), nullable=False),
    Column("num_cases", Integer, nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("beat_ms", BigInteger, nullable=False),  # last sign of life
    Column("ended_ms", BigInteger),
    Column("progress", Float, nullable=False),
    Column("message", Text, nullable=False),
    Column("before", JSON),  # name of a measure -> value on held-out cases
    Column("after", JSON),
    Column("weights", String(1000)),
    Column("weights_sha256", String(64)),
    Column("previous", Integer),  # the round in use before this one was taken
)
