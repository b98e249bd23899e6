"""The database of a project, SQLite or PostgreSQL: its tables, and how rows are read and written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from sqlalchemy import Column, Connection, Engine, RowMapping, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DatabaseError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from medsam2.errors import DatabaseAway, InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Value = TypeVar("_Value", bound="DataclassInstance")

# We name the constraints ourselves, so that migrations can refer to them in every database.
METADATA = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Times are milliseconds since 1970 in UTC: one number in every database, as browsers send it.
PROJECTS = Table(
    "projects",
    METADATA,
    Column("key", sa.String(32), primary_key=True),
    Column("name", sa.String(200), nullable=False),
    Column("round", sa.Integer, nullable=False),
    Column("created_ms", sa.BigInteger, nullable=False),
)

CASES = Table(
    "cases",
    METADATA,
    Column("id", sa.Integer, primary_key=True),
    Column("project", sa.ForeignKey("projects.key"), nullable=False),
    Column("name", sa.String(200), nullable=False),
    Column("path", sa.String(1000), nullable=False),  # below the project's folder
    Column("num_slices", sa.Integer, nullable=False),
    Column("state", sa.String(16), nullable=False),
    Column("owner", sa.String(64)),  # the user who worked on it last
    Column("lock_user", sa.String(64)),
    Column("lock_until_ms", sa.BigInteger),
    Column("updated_ms", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("project", "name"),
)

VERSIONS = Table(
    "versions",
    METADATA,
    Column("id", sa.Integer, primary_key=True),
    Column("case", sa.ForeignKey("cases.id"), nullable=False),
    Column("number", sa.Integer, nullable=False),
    Column("is_proposal", sa.Boolean, nullable=False),
    Column("is_done", sa.Boolean, nullable=False),
    Column("author", sa.String(64), nullable=False),
    Column("created_ms", sa.BigInteger, nullable=False),
    Column("round", sa.Integer, nullable=False),
    Column("path", sa.String(1000), nullable=False),  # below the project's folder
    Column("sha256", sa.String(64), nullable=False),
    Column("num_bytes", sa.BigInteger, nullable=False),
    Column("objects", sa.JSON, nullable=False),  # label -> name, colour, voxels
    Column("prompts", sa.JSON, nullable=False),
    Column("weights", sa.String(1000)),
    Column("weights_sha256", sa.String(64)),
    sa.UniqueConstraint("case", "number"),
)

DRAFTS = Table(
    "drafts",
    METADATA,
    Column("case", sa.ForeignKey("cases.id"), primary_key=True),
    Column("user", sa.String(64), primary_key=True),
    Column("content", sa.Text, nullable=False),  # JSON in ASCII
    Column("updated_ms", sa.BigInteger, nullable=False),
)

CHANGES = Table(
    "changes",
    METADATA,
    Column("id", sa.Integer, primary_key=True),
    Column("case", sa.ForeignKey("cases.id"), nullable=False, index=True),
    Column("user", sa.String(64), nullable=False),
    Column("at_ms", sa.BigInteger, nullable=False),
    Column("before", sa.String(16), nullable=False),
    Column("after", sa.String(16), nullable=False),
    Column("comment", sa.Text, nullable=False),
)

EVENTS = Table(
    "events",
    METADATA,
    Column("id", sa.Integer, primary_key=True),
    Column("case", sa.ForeignKey("cases.id"), nullable=False),
    Column("user", sa.String(64), nullable=False),
    Column("kind", sa.String(24), nullable=False),
    Column("object", sa.Integer, nullable=False),  # 0: the event is not about an object
    Column("at_ms", sa.BigInteger, nullable=False),  # by the clock of the user's machine
    Column("voxels", sa.BigInteger, nullable=False),
    Column("baseline", sa.Boolean, nullable=False),
    Column("round", sa.Integer, nullable=False),
    # An event that is sent twice, after a broken connection, is one event.
    sa.UniqueConstraint("case", "user", "at_ms", "kind", "object"),
)

ROUNDS = Table(
    "rounds",
    METADATA,
    Column("project", sa.ForeignKey("projects.key"), primary_key=True),
    Column("number", sa.Integer, primary_key=True),
    Column("state", sa.String(16), nullable=False),
    Column("user", sa.String(64), nullable=False),
    Column("num_cases", sa.Integer, nullable=False),
    Column("started_ms", sa.BigInteger, nullable=False),
    Column("beat_ms", sa.BigInteger, nullable=False),  # when its process last reported
    Column("ended_ms", sa.BigInteger),
    Column("progress", sa.Float, nullable=False),
    Column("message", sa.Text, nullable=False),
    Column("before", sa.JSON),  # name of a measure -> value on the test cases
    Column("after", sa.JSON),
    Column("weights", sa.String(1000)),
    Column("weights_sha256", sa.String(64)),
    Column("previous", sa.Integer),  # the round that was in use before this one
)


MIGRATIONS = Path(__file__).with_name("migrations")
_WAIT_S = 30  # until another process has finished writing
_MIGRATION_LOCK = 0x6D656473  # PostgreSQL's advisory locks are numbers; this one is arbitrary


def open_engine(url: str, folder: Path) -> Engine:
    """Connect to a database and bring its tables up to date.

    Args:
        url: `sqlite:///FILE`, with FILE relative to the folder, or `postgresql://HOST/NAME`.
        folder: The folder of the project.

    Raises:
        InputError: The URL is invalid or contains a password, or the database cannot be reached.
    """
    engine = _engine(url, folder)
    try:
        with transaction(engine) as db:
            upgrade(db)
    except BaseException as error:
        engine.dispose()
        if isinstance(error, DatabaseAway):
            raise InputError(str(error)) from error
        raise
    return engine


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Make several changes in the database: all of them, or none if something fails.

    Raises:
        DatabaseAway: The database does not answer, or could not store the changes.
    """
    try:
        with engine.begin() as db:
            yield db
    except PoolTimeout as error:
        raise DatabaseAway("all connections to the database are in use") from error
    except DatabaseError as error:
        if type(error) not in (DatabaseError, InternalError, OperationalError):
            raise  # a bug in our code
        reason = str(error.orig).strip().splitlines()[0] if error.orig else "no answer"
        name = engine.url.render_as_string(hide_password=True)
        raise DatabaseAway(f"the database {name} does not answer: {reason}") from error


def check_url(url: str) -> None:
    """Refuse the URL of a database that a project cannot use.

    Raises:
        InputError: It names another kind of database, or contains a password.
    """
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        raise InputError(
            f"{url!r} is not the URL of a database; an example is postgresql://HOST/NAME"
        ) from None
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise InputError(
            f"a project needs a sqlite or postgresql database, not {parsed.get_backend_name()}; "
            "give postgresql://HOST/NAME, or no URL for a file in the folder"
        )
    if parsed.password is not None:
        # The URL is stored in the folder, where everybody who can read the scans can read it.
        raise InputError(
            "leave the password out of the URL; PostgreSQL reads it from PGPASSWORD or ~/.pgpass"
        )


def upgrade(db: Connection) -> None:
    """Apply the migrations that the database does not have yet.

    Raises:
        InputError: A newer version of the program made the database.
    """
    if db.dialect.name == "postgresql":
        db.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
    context = MigrationContext.configure(db, opts={"transactional_ddl": True})
    script = ScriptDirectory(str(MIGRATIONS))
    current = context.get_current_revision()
    try:
        missing = list(script.iterate_revisions("heads", current or "base"))
    except RevisionError:
        raise InputError(
            f"a newer medsam2 than this one made the database (revision {current}); upgrade medsam2"
        ) from None
    for revision in reversed(missing):
        with Operations.context(context):
            revision.module.upgrade()
        context.stamp(script, revision.revision)


def value_of(kind: type[_Value], row: Mapping[str, object] | RowMapping, **more: object) -> _Value:
    """Make a dataclass of a row: each field has the value of the column with its name.

    Args:
        kind: The dataclass.
        row: A row, or the values that were written as one.
        more: Fields that are no columns, or have another value.
    """
    columns = {field.name: row[field.name] for field in fields(kind) if field.name not in more}
    return kind(**columns, **more)


def insert_new(db: Connection, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert rows, except those that a unique constraint says are there already."""
    if rows:
        db.execute(_insert(db, table).on_conflict_do_nothing(), [dict(row) for row in rows])


def replace_row(db: Connection, table: Table, row: Mapping[str, object]) -> None:
    """Insert a row, or replace the one with the same primary key."""
    keys = [column.name for column in table.primary_key]
    statement = _insert(db, table).values(**row)
    changed = {name: statement.excluded[name] for name in row if name not in keys}
    db.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed))


def _insert(db: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    return postgresql.insert(table) if db.dialect.name == "postgresql" else sqlite.insert(table)


def _engine(url: str, folder: Path) -> Engine:
    check_url(url)
    parsed = sa.make_url(url)
    try:
        if parsed.get_backend_name() == "postgresql":
            # Always our driver, whatever an old URL names; a dead connection is noticed before it is used.
            return sa.create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
        file = folder / (parsed.database or "medsam2.db")
        engine = sa.create_engine(
            parsed.set(drivername="sqlite", database=str(file)), connect_args={"timeout": _WAIT_S}
        )
    except ModuleNotFoundError as error:
        raise InputError(
            f"this database needs the package {error.name}: pip install 'medsam2[annotate]'"
        ) from error
    sa.event.listen(engine, "connect", _set_up_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: object, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined]  # we begin transactions ourselves
    connection.execute("PRAGMA foreign_keys = ON")  # type: ignore[attr-defined]


def _begin_sqlite(connection: Connection) -> None:
    # Lock at once: a value that was read must still be valid when the change is written.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
