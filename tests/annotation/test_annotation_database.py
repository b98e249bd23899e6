"""Migrations: from nothing, again, to exactly the tables that the code knows; a newer database is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from medsam2.annotation.database import (
    DRAFTS,
    METADATA,
    MIGRATIONS,
    PROJECTS,
    insert_new,
    open_engine,
    replace_row,
    transaction,
    upgrade,
)
from medsam2.errors import InputError

TABLES = {"projects", "cases", "versions", "drafts", "changes", "events", "rounds", "alembic_version"}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    return "sqlite:///x.db" if request.param == "sqlite" else request.getfixturevalue("postgresql")()


@pytest.fixture
def engine(url: str, tmp_path: Path) -> Iterator[Engine]:
    made = open_engine(url, tmp_path)
    yield made
    made.dispose()


def test_an_empty_database_gets_all_tables(engine: Engine) -> None:
    assert set(inspect(engine).get_table_names()) == TABLES


def test_migrations_lead_to_the_tables_of_the_code(engine: Engine) -> None:
    with transaction(engine) as db:
        context = MigrationContext.configure(db, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []


def test_a_migration_is_applied_once(engine: Engine, url: str, tmp_path: Path) -> None:
    with transaction(engine) as db:
        row = {"key": "k", "name": "kept", "round": 1, "created_ms": 5}
        db.execute(PROJECTS.insert().values(**row))
        upgrade(db)
    again = open_engine(url, tmp_path)
    with transaction(again) as db:
        assert db.execute(PROJECTS.select()).mappings().all() == [row]
        assert db.execute(text("SELECT count(*) FROM alembic_version")).scalar() == 1
    again.dispose()


def test_a_failed_migration_leaves_nothing(url: str, tmp_path: Path) -> None:
    engine = open_engine(url, tmp_path)
    with transaction(engine) as db:
        for table in (*TABLES - {"projects", "cases", "alembic_version"}, "cases", "projects"):
            db.execute(text(f"DROP TABLE {table}"))
        db.execute(text("DELETE FROM alembic_version"))
        db.execute(text("CREATE TABLE rounds (x INTEGER)"))  # the last one to be made is in the way
    with pytest.raises(Exception, match="already exists"):
        open_engine(url, tmp_path)
    assert set(inspect(engine).get_table_names()) == {"rounds", "alembic_version"}
    engine.dispose()


def test_every_migration_can_be_taken_back(engine: Engine) -> None:
    script = ScriptDirectory(str(MIGRATIONS))
    with transaction(engine) as db:
        for revision in script.walk_revisions():
            with Operations.context(MigrationContext.configure(db)):
                revision.module.downgrade()
    assert set(inspect(engine).get_table_names()) == {"alembic_version"}


def test_a_newer_database_is_refused(engine: Engine, url: str, tmp_path: Path) -> None:
    with transaction(engine) as db:
        db.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InputError, match=r"a newer medsam2 than this one .* \(revision 9999\)"):
        open_engine(url, tmp_path)


def test_a_transaction_that_fails_leaves_nothing(engine: Engine) -> None:
    def fail() -> None:
        with transaction(engine) as db:
            db.execute(PROJECTS.insert().values(key="k", name="x", round=1, created_ms=1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with transaction(engine) as db:
        assert db.execute(PROJECTS.select()).all() == []


def test_rows_are_replaced_or_kept(engine: Engine) -> None:
    with transaction(engine) as db:
        if db.dialect.name == "sqlite":
            db.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        db.execute(PROJECTS.insert().values(key="k", name="x", round=1, created_ms=1))
        row = {"id": 1, "p": "k", "n": "a"}
        db.execute(
            text(
                "INSERT INTO cases (id, project, name, path, num_slices, state, updated_ms) "
                "VALUES (:id, :p, :n, 'a', 1, 'new', 1)"
            ),
            row,
        )
        for content in ("1", "2"):
            replace_row(db, DRAFTS, {"case": 1, "user": "anna", "content": content, "updated_ms": 1})
        insert_new(db, DRAFTS, [{"case": 1, "user": "anna", "content": "3", "updated_ms": 1}])
        insert_new(db, DRAFTS, [])
        assert [draft.content for draft in db.execute(DRAFTS.select())] == ["2"]
