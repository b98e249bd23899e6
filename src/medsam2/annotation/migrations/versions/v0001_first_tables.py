"""The first tables: projects, cases, versions, drafts, changes, events, rounds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "projects",
        sa.Column("key", sa.String(32), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_projects"),
    )
    op.create_table(
        "cases",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("project", sa.String(32), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("path", sa.String(1000), nullable=False),
        sa.Column("num_slices", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("owner", sa.String(64)),
        sa.Column("lock_user", sa.String(64)),
        sa.Column("lock_until_ms", sa.BigInteger),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_cases"),
        sa.ForeignKeyConstraint(["project"], ["projects.key"], name="fk_cases_project"),
        sa.UniqueConstraint("project", "name", name="uq_cases_project_name"),
    )
    op.create_table(
        "versions",
        sa.Column("id", sa.Integer, nullable=False),
        _of_case(),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("is_proposal", sa.Boolean, nullable=False),
        sa.Column("is_done", sa.Boolean, nullable=False),
        sa.Column("author", sa.String(64), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("path", sa.String(1000), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("num_bytes", sa.BigInteger, nullable=False),
        sa.Column("objects", sa.JSON, nullable=False),
        sa.Column("prompts", sa.JSON, nullable=False),
        sa.Column("weights", sa.String(1000)),
        sa.Column("weights_sha256", sa.String(64)),
        sa.PrimaryKeyConstraint("id", name="pk_versions"),
        sa.ForeignKeyConstraint(["case"], ["cases.id"], name="fk_versions_case"),
        sa.UniqueConstraint("case", "number", name="uq_versions_case_number"),
    )
    op.create_table(
        "drafts",
        _of_case(),
        sa.Column("user", sa.String(64), nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("case", "user", name="pk_drafts"),
        sa.ForeignKeyConstraint(["case"], ["cases.id"], name="fk_drafts_case"),
    )
    _make_logs()
    _make_rounds()


def _make_logs() -> None:
    op.create_table(
        "changes",
        sa.Column("id", sa.Integer, nullable=False),
        _of_case(),
        sa.Column("user", sa.String(64), nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("before", sa.String(16), nullable=False),
        sa.Column("after", sa.String(16), nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_changes"),
        sa.ForeignKeyConstraint(["case"], ["cases.id"], name="fk_changes_case"),
    )
    op.create_index("ix_changes_case", "changes", ["case"])
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, nullable=False),
        _of_case(),
        sa.Column("user", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(24), nullable=False),
        sa.Column("object", sa.Integer, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("voxels", sa.BigInteger, nullable=False),
        sa.Column("baseline", sa.Boolean, nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sa.ForeignKeyConstraint(["case"], ["cases.id"], name="fk_events_case"),
        sa.UniqueConstraint(
            "case", "user", "at_ms", "kind", "object", name="uq_events_case_user_at_ms_kind_object"
        ),
    )


def _make_rounds() -> None:
    op.create_table(
        "rounds",
        sa.Column("project", sa.String(32), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("user", sa.String(64), nullable=False),
        sa.Column("num_cases", sa.Integer, nullable=False),
        sa.Column("started_ms", sa.BigInteger, nullable=False),
        sa.Column("beat_ms", sa.BigInteger, nullable=False),
        sa.Column("ended_ms", sa.BigInteger),
        sa.Column("progress", sa.Float, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("before", sa.JSON),
        sa.Column("after", sa.JSON),
        sa.Column("weights", sa.String(1000)),
        sa.Column("weights_sha256", sa.String(64)),
        sa.Column("previous", sa.Integer),
        sa.PrimaryKeyConstraint("project", "number", name="pk_rounds"),
        sa.ForeignKeyConstraint(["project"], ["projects.key"], name="fk_rounds_project"),
    )


def _of_case() -> sa.Column[int]:
    return sa.Column("case", sa.Integer, nullable=False)


def downgrade() -> None:
    """Drop the tables, those that others point to last."""
    for table in ("rounds", "events", "changes", "drafts", "versions", "cases", "projects"):
        op.drop_table(table)
