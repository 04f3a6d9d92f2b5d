"""The services' users: each may do its service's work, and the engine refuses everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from clickledger.clickhouse_server.errors import AUTHENTICATION_FAILED, REQUIRED_PASSWORD
from clickledger.clickhouse_server.services import SINK_INSERTS
from clickledger.stack.guard import Guard
from shared.clickhouse import ClickHouse
from shared.settings import ClickHouseSettings
from sink.ddl import apply_ddl
from tests.support.clickhouse import OWNER_PASSWORD, LocalClickHouse
from tests.support.clickhouse_http import ClickHouseHttp

SERVICES = ("sink", "reporting")
TABLES = (*SINK_INSERTS, "audits", "erasures", "gaps", "schema_versions")
VIEWS = ("rte", "edr", "ctr_daily", "clicks_by_dimension", "rejected", "freshness")
REFUSED = (
    "DROP TABLE clicks",
    "DROP DATABASE clickledger",
    "TRUNCATE TABLE clicks",
    "ALTER TABLE clicks UPDATE recipient = '' WHERE 1",
    "ALTER TABLE clicks DELETE WHERE 1",
    "ALTER TABLE clicks DROP COLUMN recipient",
    "DELETE FROM clicks WHERE 1",
    "OPTIMIZE TABLE clicks",
    "RENAME TABLE clicks TO gone",
    "CREATE TABLE more (a UInt8) ENGINE = Memory",
    "CREATE OR REPLACE VIEW rte AS SELECT 1 AS one",
    "CREATE DATABASE more",
    "SYSTEM STOP MERGES clicks",
    "SELECT a FROM elsewhere.kept",
    "INSERT INTO elsewhere.kept SELECT 1",
    "GRANT ALL ON *.* TO sink",
)
ACCESS_DENIED = 497


@pytest.fixture(scope="module")
def server(guard: Guard, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalClickHouse]:
    """The local server with our tables, and a database that is not ours."""
    server = LocalClickHouse(guard, tmp_path_factory.mktemp("clickhouse"))
    asyncio.run(set_up(server))
    yield server
    server.close()


async def set_up(server: LocalClickHouse) -> None:
    """Make the tables."""
    async with ClickHouse(ClickHouseSettings(clickhouse_url=SecretStr(f"{server.url}/clickledger"))) as owner:
        await apply_ddl(owner, "clickledger")
        await owner.command("CREATE DATABASE elsewhere")
        await owner.command("CREATE TABLE elsewhere.kept (a UInt8) ENGINE = MergeTree ORDER BY a")


def code(server: LocalClickHouse, user: str, statement: str, **fields: str) -> int:
    """The error code that a service's user is answered with, 0 when the statement ran."""
    return ClickHouseHttp(server.service_url(user)).ask(statement, **fields).code


@pytest.mark.parametrize("user", SERVICES)
@pytest.mark.parametrize("name", [*TABLES, *VIEWS])
def test_services_read(server: LocalClickHouse, user: str, name: str) -> None:
    """All of our tables and views."""
    answer = ClickHouseHttp(server.service_url(user)).ask(f"SELECT count() FROM {name}")
    assert answer.status == 200, answer.text


@pytest.mark.parametrize("user", SERVICES)
@pytest.mark.parametrize("name", TABLES)
def test_services_write(server: LocalClickHouse, user: str, name: str) -> None:
    """The sink into what it stores; reporting nowhere."""
    may = user == "sink" and name in SINK_INSERTS
    assert code(server, user, f"INSERT INTO {name} SELECT * FROM {name} WHERE 0") == (0 if may else ACCESS_DENIED)
    assert code(server, user, f"INSERT INTO {name} FORMAT JSONEachRow") == (0 if may else ACCESS_DENIED)


@pytest.mark.parametrize("user", SERVICES)
@pytest.mark.parametrize("statement", REFUSED)
def test_services_change_nothing(server: LocalClickHouse, user: str, statement: str) -> None:
    """Neither rows nor tables nor rights, nor anything in another database."""
    assert code(server, user, statement) == ACCESS_DENIED


@pytest.mark.parametrize("user", SERVICES)
def test_a_service_stays_what_it_is(server: LocalClickHouse, user: str) -> None:
    """A role that it takes holds for that statement: it has no session in which to use it."""
    code(server, user, "SET ROLE owner", session_id="s")
    assert code(server, user, "DROP TABLE clicks", session_id="s") == ACCESS_DENIED


@pytest.mark.parametrize("user", SERVICES)
@pytest.mark.parametrize("password", [OWNER_PASSWORD, ""])
def test_a_service_needs_its_password(server: LocalClickHouse, user: str, password: str) -> None:
    """The owner's is none of theirs, and no password is none either."""
    answer = ClickHouseHttp(f"http://{user}:{password}@127.0.0.1:{server.port}").ask("SELECT 1")
    assert answer.code in (AUTHENTICATION_FAILED, REQUIRED_PASSWORD)
