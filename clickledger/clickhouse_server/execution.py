"""One statement from request to result, in a worker thread.

The rule of this file: bytes of a result leave the engine through a pipe (``INTO OUTFILE '/dev/fd/N'``), so every FORMAT
comes out as one document, in constant memory, compressed by the engine itself if asked; bytes of an INSERT enter through
chDB's streaming insert in pieces of 1 MiB. Nothing else of a request grows with its size.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Final

from clickledger.clickhouse_server import access
from clickledger.clickhouse_server.bodies import PIECE_BYTES, BodyFeed, decoded
from clickledger.clickhouse_server.engine import Counts, Engine, Role, Session, User
from clickledger.clickhouse_server.errors import (
    INTO_OUTFILE_NOT_ALLOWED,
    NOT_IMPLEMENTED,
    QUERY_IS_TOO_LARGE,
    QUERY_WAS_CANCELLED,
    READONLY,
    SYNTAX_ERROR,
    UNKNOWN_EXCEPTION,
    StatementError,
    refusal,
)
from clickledger.clickhouse_server.native_hello import hello_block, is_hello
from clickledger.clickhouse_server.request import ENCODINGS, Request
from clickledger.clickhouse_server.sessions import SessionStore
from clickledger.clickhouse_server.texts import quoted
from clickledger.clickhouse_server.tokens import (
    Command,
    Inserting,
    Reading,
    Statement,
    find_insert,
    kill_by_comment,
    parse_statement,
    starts_insert,
    tokens,
)

_log: Final = logging.getLogger(__name__)

HEAD_BYTES_MAX: Final = 256 << 10  # max_query_size of the server: where an INSERT's data must have begun
TEXT_BYTES_MAX: Final = 16 << 20  # statements held whole in memory, inline VALUES of INSERT … SELECT included


@dataclass(slots=True)
class Execution:
    """What the worker thread tells the event loop while it runs; written by the thread only."""

    engine: Engine
    rules: access.Rules
    sessions: SessionStore
    request: Request
    user: User
    query_id: str
    body: BodyFeed
    pipe: int
    """File descriptor of the pipe's writing end; stays open until the worker is done."""
    format: str = ""
    """Output format, known before the first byte of the result."""
    is_reading: bool = False
    """The statement only reads: it may be killed when the client goes away."""
    is_cancelled: bool = False
    """Set by the event loop: do not start any more."""
    answer: bytes = b""
    """Result of a statement that does not write to the pipe."""

    def run(self) -> Counts:
        """Run the statement; raises StatementError only. The result is in the pipe or in `answer`."""
        try:
            return self._run()
        except StatementError:
            raise
        except Exception as exc:  # the thread's edge: a defect must reach the client and the log, not end in silence
            _log.exception("statement %s failed in the server itself", self.query_id)
            raise refusal(UNKNOWN_EXCEPTION, f"Defect in the HTTP interface: {type(exc).__name__}: {exc}") from exc

    def told(self, counts: Counts) -> Counts:
        """What the client may know of `counts`: rows and bytes that were read are those of all tenants."""
        return Counts(result_rows=counts.result_rows) if self.user.role is Role.TENANT else counts

    def _run(self) -> Counts:
        self.format = self.request.default_format
        pieces = decoded(self.body, self.request.body_encoding, in_blocks=self.request.body_in_blocks)
        statement, data = self._read_statement(pieces)
        if self.is_cancelled:
            raise refusal(QUERY_WAS_CANCELLED, "The client went away before its query was started")
        with self._session(statement) as session:
            match statement:
                case Inserting():
                    return self._insert(session, statement, chain([data], pieces))
                case Reading():
                    return self._read(session, statement)
                case Command():
                    return self._command(session, statement)

    def _read_statement(self, pieces: Iterator[bytes]) -> tuple[Statement, bytes]:
        """The statement and the first bytes of an INSERT's data; the pieces are consumed so far."""
        text = self.request.query + b"\n" if self.request.query else b""
        is_complete = bool(self.request.query)
        bound = HEAD_BYTES_MAX if self.user.is_reader else TEXT_BYTES_MAX
        while True:
            if starts_insert(text[:HEAD_BYTES_MAX]):
                insert = find_insert(text[:HEAD_BYTES_MAX], is_complete=is_complete)
                if insert:
                    return insert, text[insert.data_at :]
            piece = next(pieces, None)
            if piece is None and is_complete:
                return parse_statement(text), b""
            is_complete = piece is None
            text += piece or b"\n"
            if len(text) > bound:
                raise refusal(QUERY_IS_TOO_LARGE, f"The statement is larger than {bound} bytes")

    @contextmanager
    def _session(self, statement: Statement) -> Iterator[Session]:
        """The engine's session to run in: the owner's named one if it has to remember something, else a new one."""
        if self.request.session_id and self.user.role is Role.OWNER:
            with self._named_session(statement) as session:
                if session is not None:
                    yield session
                    return
        session = self.engine.session(self.user, self._database(), self._settings())
        try:
            yield session
        finally:
            session.close()

    @contextmanager
    def _named_session(self, statement: Statement) -> Iterator[Session | None]:
        request = self.request
        with self.sessions.hold(
            request.session_id,
            request.session_seconds,
            must_exist=request.session_must_exist,
            ends=request.session_ends,
        ) as held:
            if held.session is None and isinstance(statement, Command) and statement.is_stateful:
                held.session = self.engine.session(self.user, self._database(), {})
            if held.session is None:
                yield None
                return
            with held.session.temporarily(request.database, {**request.settings, "log_comment": self.query_id}):
                yield held.session

    def _database(self) -> str:
        """The database of unqualified names: for a reader always the engine's, so that `system` cannot be meant."""
        if self.user.is_reader:
            return self.engine.database
        return self.request.database or self.engine.database

    def _settings(self) -> dict[str, str]:
        settings = dict(self.request.settings)
        if self.user.is_reader:
            settings = access.reader_settings(settings, is_tenant=self.user.role is Role.TENANT)
        elif self.request.is_read and settings.get("readonly", "0") == "0":
            settings["readonly"] = "2"  # GET changes nothing; settings of the query are still allowed
        return {**settings, "log_comment": self.query_id}

    def _insert(self, session: Session, insert: Inserting, pieces: Iterator[bytes]) -> Counts:
        """Stream the data of an INSERT into the engine; one insert of the table for the whole body."""
        if self.user.is_reader:
            raise refusal(READONLY, "reader: Cannot execute query in readonly mode.")
        if self.request.is_read:
            raise refusal(
                READONLY,
                "Cannot execute query in readonly mode. For queries over HTTP, method GET implies readonly. You should use method POST for modifying queries.",
            )
        if session.judge(insert.head).statements > 1:
            raise refusal(SYNTAX_ERROR, "Multi-statements are not allowed")
        session.bind(self.request.params)
        input_format = insert.format or self.request.settings.get("input_format", "") or "Values"
        with self.engine.telling_failed_writes():
            stream = session.insert(insert.head, input_format)
            try:
                for piece in in_pieces(pieces):
                    stream.append(piece)
            except BaseException:  # whatever broke the body off, the engine must not keep half of a statement
                stream.cancel()
                raise
            return stream.finish()

    def _read(self, session: Session, statement: Reading) -> Counts:
        self.format = statement.format or self.request.default_format
        self.is_reading = True
        verdict = session.judge(statement.text)
        if verdict.statements > 1:
            raise refusal(SYNTAX_ERROR, "Multi-statements are not allowed")
        if any(token.is_word(b"OUTFILE") for token in tokens(statement.text)):
            raise refusal(INTO_OUTFILE_NOT_ALLOWED, "INTO OUTFILE is not allowed")
        if self.request.native_revision and self.format == "Native" and is_hello(statement.text):
            engine = self.engine
            self.answer = hello_block(engine.host, engine.version, engine.timezone, self.request.native_revision)
            return Counts(result_rows=1)
        files = [f"/dev/fd/{self.pipe}"]
        if self.request.answer_encoding:
            files.append(ENCODINGS[self.request.answer_encoding])
        clause = f"INTO OUTFILE {' TRUNCATE COMPRESSION '.join(map(quoted, files))}"
        if len(files) == 1:
            clause += " TRUNCATE"
        final = statement.with_output(clause.encode(), self.request.default_format)
        if self.user.is_reader:
            if not verdict.is_read_only:
                raise refusal(READONLY, "reader: Cannot execute query in readonly mode.")
            if self.user.role is Role.TENANT:
                access.check_tenant_text(statement.text)
                access.check_tenant_format(self.format)
            tree = session.syntax_tree(final, self.request.params)
            access.check_output(tree, files)
            access.check_tree(tree, self.engine.database, self.rules)
            if self.user.role is Role.TENANT:
                access.check_tenant_tree(tree)
        _, counts = session.run(final, "TSV", self.request.params)
        return counts

    def _command(self, session: Session, statement: Command) -> Counts:
        if not statement.text:
            raise refusal(SYNTAX_ERROR, "Empty query")
        if self.user.is_reader:
            raise refusal(READONLY, "reader: Cannot execute query in readonly mode.")
        if statement.reads_input:
            raise refusal(
                NOT_IMPLEMENTED, "input() and INFILE are not supported: the engine in process drops their rows"
            )
        if session.judge(statement.text).statements > 1:
            raise refusal(SYNTAX_ERROR, "Multi-statements are not allowed")
        self.answer, counts = session.run(kill_by_comment(statement.text), self.format, self.request.params)
        return counts


def in_pieces(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes, empty pieces dropped, small ones joined and large ones cut to about PIECE_BYTES."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        if len(piece) > PIECE_BYTES:
            whole = b"".join((*waiting, piece))
            waiting, size = [], 0
            yield from (whole[at : at + PIECE_BYTES] for at in range(0, len(whole), PIECE_BYTES))
            continue
        waiting.append(piece)
        size += len(piece)
        if size >= PIECE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if size:
        yield b"".join(waiting)
