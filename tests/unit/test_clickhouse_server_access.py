"""The reader's rules on syntax trees as the engine prints them; the whole of it is tested against the engine itself."""

from __future__ import annotations

import asyncio

import pytest

from clickledger.clickhouse_server.access import (
    Rules,
    check_output,
    check_tenant_format,
    check_tenant_tree,
    check_tree,
    reader_settings,
)
from clickledger.clickhouse_server.admission import Admission
from clickledger.clickhouse_server.errors import StatementError
from clickledger.clickhouse_server.reader_names import INNER_NODES, ROOT_NODES
from clickledger.clickhouse_server.sessions import SessionStore

RULES = Rules(
    frozenset({"plus", "tostring"}), frozenset({"sum", "count", "quantile"}), ("if", "array", "state", "ornull")
)

SELECT = """SelectWithUnionQuery (children 2)
 ExpressionList (children 1)
  SelectQuery (children 2)
   ExpressionList (children 1)
    {column}
   TablesInSelectQuery (children 1)
    TablesInSelectQueryElement (children 1)
     TableExpression (children 1)
      {table}
 Literal '/dev/fd/9'

"""


def judge(column: str = "Asterisk", table: str = "TableIdentifier t") -> int:
    """0 when the tree is allowed, else the error's code."""
    try:
        check_tree(SELECT.format(column=column, table=table), "clicks", RULES)
    except StatementError as error:
        return error.code
    return 0


@pytest.mark.parametrize(
    "table",
    [
        "TableIdentifier t",
        "TableIdentifier clicks.t (alias x)",
        "TableIdentifier system.tables",
        "TableIdentifier INFORMATION_SCHEMA.COLUMNS",
        "Function numbers (children 1)",
        "Function Numbers (alias n) (children 1)",
        "Subquery (children 1)",
        "TableIdentifier other.t",  # the engine's role refuses it: it knows what the name means
    ],
)
def test_tables_that_pass(table: str) -> None:
    """The database's own, the schema's, harmless table functions."""
    assert judge(table=table) == 0


@pytest.mark.parametrize(
    "table",
    [
        "TableIdentifier system.processes",
        "TableIdentifier system.tables.x",
        "TableIdentifier SYSTEM.tables x",
        "TableIdentifier information_schema.engines",
        "Function file (children 1)",
        "Function FILE (alias sum) (children 1)",
        "Function plus (children 1)",
        "TableIdentifier two\nlines.of.a name: (",
    ],
)
def test_tables_that_do_not(table: str) -> None:
    """System tables beyond the schema, every other table function, names that cannot be read."""
    assert judge(table=table) == 497


@pytest.mark.parametrize(
    "column", ["Function plus (children 1)", "Function toString (alias file)", "Identifier system.tables.name"]
)
def test_columns_that_pass(column: str) -> None:
    """Pure functions under any case, columns of the schema's tables by their full name."""
    assert judge(column=column) == 0


@pytest.mark.parametrize(
    ("column", "code"),
    [
        ("Function file (children 1)", 497),
        ("Function numbers (children 1)", 497),
        ("Function dictGet (alias plus) (children 1)", 497),
        ("Identifier system.processes", 497),
        ("Identifier system.processes.query", 497),
        ("ColumnsApplyTransformer", 497),
        ("KillQueryQuery", 497),
        ("Explain EXPLAIN TABLE OVERRIDE", 497),
        ("Set", 164),
    ],
)
def test_columns_that_do_not(column: str, code: int) -> None:
    """Impure functions, functions hidden in APPLY, settings, nodes that are not known."""
    assert judge(column=column) == code


@pytest.mark.parametrize("tree", ["", "InsertQuery   (children 1)", "KillQueryQuery", "Set", "CreateQuery a", "?"])
def test_roots_that_are_no_readings(tree: str) -> None:
    """Only statements with a result begin a tree that passes."""
    with pytest.raises(StatementError):
        check_tree(tree, "clicks", RULES)


def test_no_node_of_the_tree_can_write() -> None:
    """The lists of allowed nodes name no statement that changes anything."""
    for name in ROOT_NODES | INNER_NODES:
        assert not name.startswith(("Insert", "Create", "Alter", "Drop", "Kill", "System", "Set", "Grant", "Backup"))


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("sum", True),
        ("SumIf", True),
        ("countArrayIf", True),
        ("quantileOrNullState", True),
        ("plusIf", False),
        ("If", False),
    ],
)
def test_aggregates_take_combinators(name: str, allowed: bool) -> None:
    """An aggregate function stays one with any number of combinators; other functions take none."""
    assert RULES.allows_function(name) is allowed


def test_output_is_the_servers_own() -> None:
    """A file that the server did not name is refused; no clause in the tree is left to the engine's class."""
    tree = SELECT.format(column="Asterisk", table="TableIdentifier t")
    check_output(tree, ["/dev/fd/9"])
    check_output("SelectWithUnionQuery (children 1)\n", ["/dev/fd/9"])
    for files in (["/dev/fd/8"], ["/dev/fd/9", "gzip"]):
        with pytest.raises(StatementError):
            check_output(tree, files)


def test_reader_settings_are_a_list() -> None:
    """Shape of the answer passes, noise of drivers is dropped, limits are bounded, everything else is 164."""
    kept = reader_settings({"output_format_json_quote_64bit_integers": "1", "readonly": "0", "max_execution_time": "5"})
    assert kept["output_format_json_quote_64bit_integers"] == "1"
    assert kept["max_execution_time"] == "5"
    assert "readonly" not in kept
    assert kept["max_memory_usage"] == str(4 << 30)
    assert reader_settings({}, is_tenant=True)["max_memory_usage"] == str(1 << 30)
    assert 1 <= int(kept["max_threads"]) <= 4
    for value in ("0", "1000", "auto", "-1", "9" * 40, "²"):
        assert 1 <= int(reader_settings({"max_threads": value})["max_threads"]) <= 4
    for value, used in {"0": 65_536, "65537": 65_536, "100": 100, "": 65_536}.items():
        assert reader_settings({"max_block_size": value})["max_block_size"] == str(used)
    for value in ("0", "61", "-1", "nan", "x", "inf"):
        assert reader_settings({"max_execution_time": value})["max_execution_time"] == "60"
    for name in (
        "max_memory_usage",
        "additional_table_filters",
        "output_format_schema",
        "format_schema",
        "sql_x",
        "role",
    ):
        with pytest.raises(StatementError) as caught:
            reader_settings({name: "1"})
        assert caught.value.code == 164


async def test_admission_bounds_what_runs_and_what_waits() -> None:
    """One runs, one waits, the third is refused at once with 202; a slot that is given back is taken."""
    admission = Admission(1, 1)
    leave = asyncio.Event()
    order: list[int] = []

    async def statement(number: int) -> None:
        async with admission.enter():
            order.append(number)
            await leave.wait()

    first, second = asyncio.create_task(statement(1)), asyncio.create_task(statement(2))
    await asyncio.sleep(0)
    with pytest.raises(StatementError) as caught:
        await statement(3)
    assert caught.value.code == 202
    assert order == [1]
    leave.set()
    await asyncio.gather(first, second)
    assert order == [1, 2]
    assert admission.inside == 0


async def test_one_of_many_has_half_of_the_places() -> None:
    """Of two places to run and two to wait one user has one each; the other runs at once, and counters tell why not."""
    admission = Admission(2, 2, shares=2)
    leave = asyncio.Event()
    running: list[str] = []

    async def statement(user: str) -> None:
        async with admission.enter(user):
            running.append(user)
            await leave.wait()

    entered = [asyncio.create_task(statement("greedy")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(StatementError) as caught:
        await statement("greedy")
    assert caught.value.code == 202
    entered += [asyncio.create_task(statement("other")) for _ in range(2)]
    await asyncio.sleep(0)
    assert running == ["greedy", "other"]
    with pytest.raises(StatementError):
        await statement("third")
    assert admission.refused == {"share": 1, "full": 1}
    leave.set()
    await asyncio.gather(*entered)
    assert sorted(running) == ["greedy", "greedy", "other", "other"]
    assert admission.inside == 0


@pytest.mark.parametrize("name", ["JSONEachRowWithProgress", "jsoncompacteachrowwithprogress"])
def test_formats_with_progress_are_not_a_tenants(name: str) -> None:
    """They tell how many rows were read; named in the URL or in the statement."""
    with pytest.raises(StatementError):
        check_tenant_format(name)
    with pytest.raises(StatementError):
        check_tenant_tree(SELECT.format(column="Asterisk", table="TableIdentifier t") + f" Identifier {name}\n")
    check_tenant_format("JSONEachRow")


def test_named_sessions_are_locked_remembered_and_forgotten() -> None:
    """One statement at a time; a session that must exist has to have been used before it ran out or was ended."""
    store = SessionStore()
    with pytest.raises(StatementError) as missing, store.hold("a", 60, must_exist=True, ends=False):
        pass
    with (
        store.hold("a", 60, must_exist=False, ends=False) as first,
        pytest.raises(StatementError) as locked,
        store.hold("a", 60, must_exist=False, ends=False),
    ):
        pass
    with store.hold("a", 0, must_exist=True, ends=False) as again:
        assert again is first
    with pytest.raises(StatementError) as expired, store.hold("a", 60, must_exist=True, ends=False):
        pass
    assert [error.value.code for error in (missing, locked, expired)] == [372, 373, 372]
