"""One statement from request to result, in a worker thread.

The rule of this file: bytes of a result leave the engine through a pipe (``INTO OUTFILE '/dev/fd/N'``), so every FORMAT
comes out as one document, in constant memory, compressed by the engine itself if asked; bytes of an INSERT enter through
chDB's streaming insert in pieces of 1 MiB. Nothing else of a request grows with its size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final

from clickledger.clickhouse_server import access
from clickledger.clickhouse_server.bodies import PIECE_BYTES, BodyFeed, decoded
from clickledger.clickhouse_server.engine import Counts, Engine, Role, Session
from clickledger.clickhouse_server.errors import (
    INTO_OUTFILE_NOT_ALLOWED,
    QUERY_IS_TOO_LARGE,
    QUERY_WAS_CANCELLED,
    READONLY,
    SYNTAX_ERROR,
    refusal,
)
from clickledger.clickhouse_server.request import ENCODINGS, Request
from clickledger.clickhouse_server.tokens import (
    Command,
    Inserting,
    Reading,
    find_insert,
    kill_by_comment,
    parse_statement,
    starts_insert,
    tokens,
)

HEAD_BYTES_MAX: Final = 256 << 10  # max_query_size of the server: where an INSERT's data must have begun
TEXT_BYTES_MAX: Final = 16 << 20  # statements held whole in memory, inline VALUES of INSERT … SELECT included


@dataclass(slots=True)
class Execution:
    """What the worker thread tells the event loop while it runs; written by the thread only."""

    engine: Engine
    rules: access.Rules
    request: Request
    role: Role
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
        """Run the statement; raises StatementError. The result is in the pipe or in `answer`."""
        self.format = self.request.default_format
        pieces = decoded(self.body, self.request.body_encoding, in_blocks=self.request.body_in_blocks)
        session = self.engine.session(self.role, self._database(), self._settings())
        try:
            return self._run(session, pieces)
        finally:
            session.close()

    def _database(self) -> str:
        """The database of unqualified names: for a reader always the engine's, so that `system` cannot be meant."""
        if self.role is Role.READER:
            return self.engine.database
        return self.request.database or self.engine.database

    def _settings(self) -> dict[str, str]:
        settings = dict(self.request.settings)
        if self.role is Role.READER:
            settings = access.reader_settings(settings)
        elif self.request.is_read and settings.get("readonly", "0") == "0":
            settings["readonly"] = "2"  # GET changes nothing; settings of the query are still allowed
        return {**settings, "log_comment": self.query_id}

    def _run(self, session: Session, pieces: Iterator[bytes]) -> Counts:
        text, insert = self._read_statement(pieces)
        if insert is not None:
            return self._insert(session, insert, chain([text[insert.data_at :]], pieces))
        statement = parse_statement(text)
        if self.is_cancelled:
            raise refusal(QUERY_WAS_CANCELLED, "The client went away before its query was started")
        match statement:
            case Inserting():
                return self._insert(session, statement, pieces)
            case Reading():
                return self._read(session, statement)
            case Command():
                return self._command(session, statement)

    def _read_statement(self, pieces: Iterator[bytes]) -> tuple[bytes, Inserting | None]:
        """The text up to where an INSERT's data begins, or all of it; the pieces are consumed so far."""
        text = self.request.query + b"\n" if self.request.query else b""
        if self.request.query and (insert := find_insert(text)):
            return text, insert
        for piece in pieces:
            text += piece
            is_insert = starts_insert(text[:HEAD_BYTES_MAX])
            if is_insert and (insert := find_insert(text[:HEAD_BYTES_MAX])):
                return text, insert
            if len(text) > TEXT_BYTES_MAX:
                raise refusal(QUERY_IS_TOO_LARGE, f"The statement is larger than {TEXT_BYTES_MAX} bytes")
        return text, None

    def _insert(self, session: Session, insert: Inserting, pieces: Iterator[bytes]) -> Counts:
        """Stream the data of an INSERT into the engine; one insert of the table for the whole body."""
        if self.role is Role.READER:
            raise refusal(READONLY, "reader: Cannot execute query in readonly mode.")
        if self.request.is_read:
            raise refusal(
                READONLY,
                "Cannot execute query in readonly mode. For queries over HTTP, method GET implies readonly. You should use method POST for modifying queries.",
            )
        if session.statement_count(insert.head) > 1:
            raise refusal(SYNTAX_ERROR, "Multi-statements are not allowed")
        session.bind(self.request.params)
        input_format = insert.format or self.request.settings.get("input_format", "") or "Values"
        stream = session.insert(insert.head, input_format)
        try:
            for piece in in_pieces(pieces):
                stream.append(piece)
        except BaseException:
            stream.cancel()
            raise
        return stream.finish()

    def _read(self, session: Session, statement: Reading) -> Counts:
        self.format = statement.format or self.request.default_format
        self.is_reading = True
        clause = f"INTO OUTFILE '/dev/fd/{self.pipe}' TRUNCATE"
        if self.request.answer_encoding:
            clause += f" COMPRESSION '{ENCODINGS[self.request.answer_encoding]}'"
        if session.statement_count(statement.text) > 1:
            raise refusal(SYNTAX_ERROR, "Multi-statements are not allowed")
        if any(token.is_word(b"OUTFILE") for token in tokens(statement.text)):
            raise refusal(INTO_OUTFILE_NOT_ALLOWED, "INTO OUTFILE is not allowed")
        final = statement.with_output(clause.encode(), self.request.default_format)
        if self.role is Role.READER:
            tree = session.syntax_tree(final, self.request.params)
            access.check_output(tree, 2 if self.request.answer_encoding else 1)
            access.check_tree(tree, self.engine.database, self.rules)
        _, counts = session.run(final, "TSV", self.request.params)
        return counts

    def _command(self, session: Session, statement: Command) -> Counts:
        if not statement.text:
            raise refusal(SYNTAX_ERROR, "Empty query")
        if self.role is Role.READER:
            raise refusal(READONLY, "reader: Cannot execute query in readonly mode.")
        if session.statement_count(statement.text) > 1:
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
