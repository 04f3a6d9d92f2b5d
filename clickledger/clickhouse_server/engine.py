"""The one importer of chDB: the engine on one data folder, sessions with ClickHouse's own roles, the kill switch.

Seen on chDB 26.9 and used here:
- One process per data folder, any number of connections in it; opening one takes 0.15 ms once the engine runs, so every
  request gets its own session and no setting can leak from one request into another.
- The engine reads users and roles from the file that ``config-file`` names. Every session is the user ``default``; what
  it may do is decided by ``SET ROLE``. So a reader's session has the role ``reader`` (SELECT and SHOW on one database)
  and ``readonly = 1``: the engine itself refuses other databases, table functions that reach out, and all changes.
  A service's session has the role of its name (services.py), for one statement: it keeps none in which to change the role.
  It does *not* refuse SET ROLE, INTO OUTFILE, the function file() or the system tables to such a session: access.py does.
- Unlike on a server, ``access_control_improvements``, ``user_directories`` and custom settings are not read, so CREATE ROLE,
  row policies and grants on the system database are out of reach. What holds for a tenant is tenant_filter.py: a filter
  set before ``readonly = 1``, and the role ``tenant``, which may read the tables that the filter names and the views.
- A query's id cannot be chosen; ``log_comment`` can, shows in system.processes and so finds a query to kill.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from clickledger.clickhouse_server import services, tenant_filter
from clickledger.clickhouse_server.errors import StatementError, from_engine
from clickledger.clickhouse_server.texts import quoted

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

WRITE_ERRORS: Final = (75, 76, 159, 241, 242, 243, 252, 469, 774)
"""Files, time, memory, read-only table, disk space, parts, constraints: what a table throws when rows are written."""

MERGE_NICE: Final = 10
"""Threads that merge give way to all else on the machine: merges can wait, and many small ones that wait become one large one."""

_CONFIG: Final = """<clickhouse>
  <users_config>{users}</users_config>
  <timezone>UTC</timezone>
  <os_threads_nice_value_merge_mutate>{merge_nice}</os_threads_nice_value_merge_mutate>
</clickhouse>
"""
_USERS: Final = """<clickhouse>
  <profiles><default></default></profiles>
  <quotas><default></default></quotas>
  <roles>
    <owner><grants><query>GRANT ALL ON *.*</query></grants></owner>
    <reader><grants><query>GRANT SELECT, SHOW ON {database}.*</query></grants></reader>
    <tenant><grants>{tenant}</grants></tenant>
    <sink><grants>{sink}</grants></sink>
    <reporting><grants>{reporting}</grants></reporting>
  </roles>
  <users>
    <default>
      <password></password><profile>default</profile><quota>default</quota>
      <networks><ip>::/0</ip></networks>
      <grants><query>GRANT owner, reader, tenant, sink, reporting</query></grants>
    </default>
  </users>
</clickhouse>
"""


class Role(StrEnum):
    """What a session may do; the engine's role of the same name."""

    OWNER = "owner"
    SINK = "sink"
    REPORTING = "reporting"
    READER = "reader"
    TENANT = "tenant"


class User(NamedTuple):
    """Who asks."""

    role: Role
    tenant: str = ""
    """Whose rows are all that a session of the role `tenant` sees; '' for the other roles."""

    @property
    def is_reader(self) -> bool:
        """Whether it may only read, by the rules of access.py."""
        return self.role in (Role.READER, Role.TENANT)


@dataclass(frozen=True, slots=True)
class Counts:
    """What a statement did, as X-ClickHouse-Summary tells it."""

    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    result_rows: int = 0
    elapsed_ns: int = 0


class Verdict(NamedTuple):
    """The engine's opinion of a text: 0 statements when it cannot be parsed; writing a file is not read-only."""

    statements: int
    is_read_only: bool


class InsertStream:
    """One streaming INSERT of a session; `append` pieces in order, then `finish` (which stores) or `cancel`."""

    def __init__(self, connection: Any, head: bytes, input_format: str) -> None:
        self._connection = connection
        try:
            self._stream = connection.send_insert(head, input_format)
        except RuntimeError as exc:
            raise from_engine(str(exc)) from exc

    def append(self, piece: bytes) -> None:
        """Parse one piece (1 MiB is best); raises StatementError on bad rows."""
        try:
            self._connection.insert_append(self._stream, piece)
        except RuntimeError as exc:
            raise from_engine(str(exc)) from exc

    def finish(self) -> Counts:
        """Store what was appended; returns after the part is written. Raises StatementError."""
        try:
            done = self._connection.insert_done(self._stream)
        except RuntimeError as exc:
            raise from_engine(str(exc)) from exc
        return Counts(
            written_rows=done.rows_written(),
            written_bytes=done.bytes_written(),
            elapsed_ns=int(done.elapsed() * 1e9),
        )

    def cancel(self) -> None:
        """Drop what was appended and not yet stored; never raises."""
        try:
            self._connection.insert_cancel(self._stream)
        except RuntimeError:
            return  # a failed stream is already cancelled


class Session:
    """One connection with its own settings, database and role. One statement at a time, from one thread at a time."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def run(self, sql: bytes, output_format: str, params: Mapping[str, str] | None = None) -> tuple[bytes, Counts]:
        """Run one statement; its whole result (in `output_format` unless it names a FORMAT) and counts."""
        try:
            result = self._connection.query(sql, output_format, params=dict(params or {}))
        except RuntimeError as exc:
            raise from_engine(str(exc)) from exc
        counts = Counts(
            read_rows=result.storage_rows_read(),
            read_bytes=result.storage_bytes_read(),
            written_rows=result.rows_written(),
            written_bytes=result.bytes_written(),
            result_rows=result.rows_read(),
            elapsed_ns=int(result.elapsed() * 1e9),
        )
        return result.bytes(), counts

    def apply(self, settings: Mapping[str, str]) -> None:
        """SET all of `settings` at once; raises StatementError for an unknown name or a bad value."""
        if settings:
            assignments = ", ".join(f"`{name}` = {quoted(value)}" for name, value in settings.items())
            self.run(f"SET {assignments}".encode(), "TSV")

    @contextmanager
    def temporarily(self, database: str, settings: Mapping[str, str]) -> Iterator[None]:
        """`database` (unless '') and `settings` for the time of the block; what was before comes back after it."""
        names = ", ".join(quoted(name) for name in settings) or "''"
        rows, _ = self.run(
            f"SELECT currentDatabase(), groupArray((name, value, changed)) FROM system.settings WHERE name IN ({names})".encode(),  # noqa: S608
            "JSONCompactEachRow",
        )
        before_database, before = orjson.loads(rows)
        if database:
            self.run(f"USE `{database}`".encode(), "TSV")
        self.apply(settings)
        try:
            yield
        finally:
            self.apply({name: value for name, value, changed in before if int(changed)})
            for name, _, changed in before:
                if not int(changed):
                    self.run(f"SET `{name}` = DEFAULT".encode(), "TSV")
            if database:
                self.run(f"USE `{before_database}`".encode(), "TSV")

    def bind(self, params: Mapping[str, str]) -> None:
        """Set query parameters for statements that cannot take them as arguments (streaming INSERT)."""
        for name, value in params.items():
            self.run(f"SET param_{name} = {quoted(value)}".encode(), "TSV")

    def insert(self, head: bytes, input_format: str) -> InsertStream:
        """Begin a streaming INSERT; `head` is the statement without FORMAT and data."""
        return InsertStream(self._connection, head, input_format)

    def judge(self, sql: bytes) -> Verdict:
        """What the engine's parser makes of `sql`, without running it."""
        found = self._connection.classify_query(sql, "")
        return Verdict(int(found["statement_count"]), found["query_class"].name == "READ_ONLY")

    def syntax_tree(self, sql: bytes, params: Mapping[str, str]) -> str:
        """The engine's own syntax tree of one statement, parameters filled in; raises StatementError."""
        tree, _ = self.run(b"EXPLAIN AST " + sql, "TSVRaw", params)
        return tree.decode("utf-8", "replace")

    def close(self) -> None:
        """End the session; an open streaming insert is cancelled."""
        self._connection.close()


class Engine:
    """The engine, open on `folder` from construction to `close`; safe to use from many threads."""

    def __init__(self, folder: Path, database: str) -> None:
        """Open (and at first make) the data folder and `database`; raises OSError or StatementError."""
        if not NAME.match(database):
            raise ValueError(f"database name {database!r} is not a plain name")
        self.database = database
        config = _write_config(folder, database)
        self._target = f"{folder / 'engine'}?config-file={config}"
        import chdb  # 0.6 s and 220 MB: only the process that serves pays for it

        # The compiled class below chdb.connect: it takes bytes, which need not be UTF-8, and wraps nothing.
        self._connect: Callable[[str], Any] = chdb._chdb.connect  # type: ignore[attr-defined]  # noqa: SLF001
        try:
            self._keeper = self._connect(self._target)  # the engine lives as long as one connection is open
        except RuntimeError as exc:
            raise from_engine(str(exc)) from exc
        self._keeper_lock = threading.Lock()
        self.ask(f"CREATE DATABASE IF NOT EXISTS `{database}`")
        self.version, self.timezone, self.host = (
            self.ask("SELECT version(), timezone(), hostName()").strip().split("\t")
        )

    def session(self, user: User, database: str, settings: Mapping[str, str]) -> Session:
        """A new session in `database` with `settings`: the user's role first, a tenant's filter and a reader's readonly = 1 last.

        Raises StatementError for an unknown database, setting or value. The caller closes the session.
        """
        try:
            session = Session(self._connect(self._target))
        except RuntimeError as exc:
            raise from_engine(str(exc)) from exc
        try:
            session.run(f"USE `{database}`".encode(), "TSV")
            if user.role is not Role.OWNER:
                session.run(f"SET ROLE {user.role}".encode(), "TSV")
            if user.is_reader:
                # A reader's session ignores the SETTINGS inside a view, and ctr_daily needs this one.
                settings = {**settings, "allow_nonconst_timezone_arguments": "1"}
                if user.role is Role.TENANT:
                    settings |= tenant_filter.settings_for(self.database, user.tenant)
                settings["readonly"] = "1"
            session.apply({"implicit_select": "0", **settings})
        except StatementError:
            session.close()
            raise
        return session

    def ask(self, sql: str) -> str:
        """Run one internal statement as the owner; its result as TSV."""
        with self._keeper_lock:
            answer, _ = Session(self._keeper).run(sql.encode(), "TSV")
        return answer.decode("utf-8", "replace")

    @contextmanager
    def telling_failed_writes(self) -> Iterator[None]:
        """Raise StatementError for a write inside that failed without a word.

        chDB's streaming insert swallows what the table throws when the rows are written (seen on 26.9: too many parts,
        disk full, violated constraint, time-out; `written_rows` may even say that they were). The engine counts every
        error it throws. When another session fails in the same way meanwhile, this insert is called failed as well,
        although it may be stored: a client must ask the table, or send it again under its token.
        """
        before = self._write_errors()
        yield
        for code, count in self._write_errors().items():
            if count > before.get(code, 0):
                raise from_engine(f"Code: {code}. DB::Exception: {self._latest_message(code)}")

    def _write_errors(self) -> dict[int, int]:
        """How often each of `WRITE_ERRORS` was thrown.

        Without WHERE and GROUP BY, which cost more than the few rows: this is asked twice for each insert.
        """
        counts = dict.fromkeys(WRITE_ERRORS, 0)
        for line in self.ask("SELECT code, value FROM system.errors").splitlines():
            code, count = map(int, line.split("\t"))
            if code in counts:
                counts[code] += count
        return counts

    def _latest_message(self, code: int) -> str:
        """What the latest error of this code said, and its name."""
        return self.ask(
            "SELECT concat(argMax(last_error_message, last_error_time), ' (', any(name), ')') "  # noqa: S608
            f"FROM system.errors WHERE code = {code}"
        ).strip()

    def kill(self, log_comment: str) -> None:
        """Ask the engine to cancel every running statement with this log_comment; returns at once."""
        self.ask(f"KILL QUERY WHERE Settings['log_comment'] = {quoted(log_comment)} ASYNC")

    def close(self) -> None:
        """Close the engine once all sessions are closed; parts being merged are given up safely."""
        self._keeper.close()


def _write_config(folder: Path, database: str) -> Path:
    """Write the engine's configuration into `folder`/config and return the path of the main file."""
    if set("?&%#") & set(str(folder)):
        raise OSError(f"the data folder's path must not contain ? & % or #: {folder}")
    place = folder / "config"
    place.mkdir(parents=True, exist_ok=True)
    users = place / "users.xml"
    grants = {
        "tenant": tenant_filter.grants(database),
        "sink": services.sink_grants(database),
        "reporting": services.reporting_grants(database),
    }
    rights = {role: "".join(f"<query>{grant}</query>" for grant in lines) for role, lines in grants.items()}
    users.write_text(_USERS.format(database=database, **rights))
    config = place / "config.xml"
    config.write_text(_CONFIG.format(users=users, merge_nice=MERGE_NICE))
    return config
