"""Writes sink/schema.json: what the files of sink/ddl/ leave in an empty database, as the engine describes it.

    python -m tools.tables

To be run after a file was added; tests/stack/test_schema.py fails until then.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import orjson

from clickledger.clickhouse_server.engine import Engine, Role, User
from sink.ddl import VERSIONS, migrations
from sink.schema import INDICES, TABLES, as_text, parts

SCHEMA: Final = Path(__file__).parents[1] / "sink" / "schema.json"
_DATABASE: Final = "clickledger"


def main() -> None:
    """Apply every file to an engine of our own, read the result, write it."""
    with TemporaryDirectory() as folder:
        engine = Engine(Path(folder), _DATABASE)
        session = engine.session(User(Role.OWNER), _DATABASE, {})
        for statement in (VERSIONS, *(each for migration in migrations() for each in migration.statements)):
            session.run(statement.encode(), "TSV")
        answers = [session.run(sql.encode(), "JSONCompactEachRow")[0] for sql in (TABLES, INDICES)]
        session.close()
        engine.close()
    rows = [tuple(orjson.loads(line)) for line in b"".join(answers).splitlines()]
    SCHEMA.write_text(as_text(parts(rows, _DATABASE)), encoding="utf-8")
    print(f"{SCHEMA}: {len(rows)} parts")


if __name__ == "__main__":
    main()
