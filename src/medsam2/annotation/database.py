"""Open a project's database, SQLite or PostgreSQL, in the state that this version of the program knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from sqlalchemy import Connection, Engine, Table, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DatabaseError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from medsam2.annotation.conflict import DatabaseAway
from medsam2.errors import InputError

MIGRATIONS = Path(__file__).with_name("migrations")
_WAIT_S = 30  # for another process to finish writing
_MIGRATION_LOCK = 0x6D656473  # PostgreSQL's advisory locks are numbers; any of ours does


def open_engine(url: str, folder: Path) -> Engine:
    """Connect to a database and bring its tables up to date.

    Args:
        url: `sqlite:///FILE`, a relative FILE starting from the folder, or `postgresql://HOST/NAME`.
        folder: The project's.

    Raises:
        InputError: It is no such URL, holds a password, or cannot be reached.
    """
    engine = _engine(url, folder)
    try:
        with transaction(engine) as db:
            upgrade(db)
    except DatabaseAway as error:
        engine.dispose()
        raise InputError(str(error)) from error
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Do several things in the database, all or none.

    Raises:
        DatabaseAway: It does not answer, or could not keep what was written.
    """
    try:
        with engine.begin() as db:
            yield db
    except PoolTimeout as error:
        raise DatabaseAway("all connections to the database are at work") from error
    except DatabaseError as error:
        if type(error) not in (DatabaseError, InternalError, OperationalError):
            raise  # a mistake of ours
        reason = str(error.orig).strip().splitlines()[0] if error.orig else "no answer"
        name = engine.url.render_as_string(hide_password=True)
        raise DatabaseAway(f"the database {name} does not answer: {reason}") from error


def check_url(url: str) -> None:
    """Refuse a URL of a database that a project should not have.

    Raises:
        InputError: It names another kind of database, or holds a password.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise InputError(f"{url!r} is no URL of a database; postgresql://HOST/NAME is one") from None
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise InputError(
            f"a project is kept in sqlite or postgresql, not in {parsed.get_backend_name()}; "
            "give postgresql://HOST/NAME, or nothing for a file in the folder"
        )
    if parsed.password is not None:
        # The URL is written into the folder, where everybody who sees the scans would see it.
        raise InputError(
            "leave the password out of the URL; PostgreSQL takes it from PGPASSWORD or ~/.pgpass"
        )


def upgrade(db: Connection) -> None:
    """Apply the migrations that a database lacks; those it has are left alone.

    Raises:
        InputError: A newer version of the program made it.
    """
    if db.dialect.name == "postgresql":
        db.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
    context = MigrationContext.configure(db, opts={"transactional_ddl": True})
    script = ScriptDirectory(str(MIGRATIONS))
    current = context.get_current_revision()
    try:
        missing = list(script.iterate_revisions("heads", current or "base"))
    except RevisionError:
        raise InputError(
            f"the database is of a newer medsam2 than this one (revision {current}); upgrade medsam2"
        ) from None
    for revision in reversed(missing):
        with Operations.context(context):
            revision.module.upgrade()
        context.stamp(script, revision.revision)


def insert_new(db: Connection, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert rows, leaving out those that are there already by a unique constraint."""
    if not rows:
        return
    insert = postgresql.insert if db.dialect.name == "postgresql" else sqlite.insert
    db.execute(insert(table).on_conflict_do_nothing(), [dict(row) for row in rows])


def replace_row(db: Connection, table: Table, row: Mapping[str, object]) -> None:
    """Insert a row, or put it in the place of the one with its primary key."""
    insert = postgresql.insert if db.dialect.name == "postgresql" else sqlite.insert
    keys = [column.name for column in table.primary_key]
    statement = insert(table).values(**row)
    changed = {name: statement.excluded[name] for name in row if name not in keys}
    db.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed))


def _engine(url: str, folder: Path) -> Engine:
    check_url(url)
    parsed = make_url(url)
    try:
        if parsed.get_backend_name() == "postgresql":
            # The driver we ask for, whatever an old URL says; a dead connection is noticed before its use.
            return create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
        file = folder / (parsed.database or "medsam2.db")
        engine = create_engine(
            parsed.set(drivername="sqlite", database=str(file)), connect_args={"timeout": _WAIT_S}
        )
    except ModuleNotFoundError as error:
        raise InputError(
            f"this database needs the package {error.name}: pip install 'medsam2[annotate]'"
        ) from error
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: object, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined]  # we say ourselves when one begins
    connection.execute("PRAGMA foreign_keys = ON")  # type: ignore[attr-defined]


def _begin_sqlite(connection: Connection) -> None:
    # Taken at once: what is read first must still be so when it is written.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
