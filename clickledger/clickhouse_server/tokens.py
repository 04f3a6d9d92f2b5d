"""A lexer for ClickHouse SQL, just enough to see where a statement's data and its FORMAT clause stand.

It decides nothing about permission: what a statement may do is judged from the engine's own syntax tree (access.py).
Everything works on bytes, since the data behind an INSERT need not be text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

# What is not closed goes on to the end of the text, and nothing backtracks: lexing is linear for any bytes.
_TOKEN: Final = re.compile(
    rb"""
    (?P<space> \s++ | --[^\n]*+ | \#[ !][^\n]*+ | /\*.*?\*/ )
  | (?P<broken> /\*.*\Z )
  | (?P<heredoc> \$(?P<tag>\w*+)\$ .*? (?:\$(?P=tag)\$|\Z) )
  | (?P<string> '(?:[^'\\]++|\\(?:.|\Z)|'')*+(?:'|\Z) )
  | (?P<quoted> `(?:[^`\\]++|\\(?:.|\Z)|``)*+(?:`|\Z) | "(?:[^"\\]++|\\(?:.|\Z)|"")*+(?:"|\Z) )
  | (?P<word> [A-Za-z_\x80-\xff][\w$\x80-\xff]*+ )
  | (?P<number> \d[\w.]*+ )
  | (?P<mark> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_OPEN: Final = {b"(", b"[", b"{"}
_CLOSE: Final = {b")", b"]", b"}"}
_READS: Final = {b"SELECT", b"WITH", b"FROM", b"SHOW", b"DESCRIBE", b"DESC", b"EXISTS", b"EXPLAIN", b"CHECK"}
_DATA_GAP: Final = re.compile(rb"[ \t\f]*\r?\n?")


class Token(NamedTuple):
    """One token that is not space: `kind` is the pattern's group, `depth` counts open brackets around it."""

    kind: str
    text: bytes
    start: int
    end: int
    depth: int

    def is_word(self, *words: bytes) -> bool:
        """Whether this is one of `words` (upper case), unquoted and outside all brackets."""
        return self.kind == "word" and self.depth == 0 and self.text.upper() in words


@dataclass(frozen=True, slots=True)
class Reading:
    """A statement with a result. `text` has no trailing semicolon; the FORMAT clause starts at `format_at` (or the end)."""

    text: bytes
    format: str
    """Format named in the text, '' when there is none."""
    format_at: int

    def with_output(self, clause: bytes, default_format: str) -> bytes:
        """The statement with `clause` (INTO OUTFILE …) before its FORMAT, which is `default_format` unless it names one."""
        if self.format:
            return b"".join((self.text[: self.format_at], b"\n", clause, b" ", self.text[self.format_at :]))
        return b"".join((self.text, b"\n", clause, b" FORMAT ", default_format.encode()))


@dataclass(frozen=True, slots=True)
class Inserting:
    """An INSERT whose rows follow as data: `head` is the statement without FORMAT, data starts at `data_at` of the text."""

    head: bytes
    format: str
    """Input format named in the text; '' when there is none, 'Values' behind VALUES."""
    data_at: int


@dataclass(frozen=True, slots=True)
class Command:
    """Any other statement (DDL, INSERT … SELECT, SET, KILL): run whole, its small result comes at once."""

    text: bytes

    @property
    def is_stateful(self) -> bool:
        """Whether it leaves something in the session: SET, USE, a transaction, a temporary table."""
        found = [token for token, _ in zip(tokens(self.text), range(5), strict=False)]
        changes_session = bool(found) and found[0].is_word(b"SET", b"USE", b"BEGIN", b"COMMIT", b"ROLLBACK")
        return changes_session or any(token.is_word(b"TEMPORARY") for token in found)

    @property
    def reads_input(self) -> bool:
        """Whether it wants rows from the body or a file of the client: input() or INFILE, which chDB cannot do."""
        found = list(tokens(self.text))
        is_insert = bool(found) and found[0].is_word(b"INSERT")
        calls_input = any(a.text.lower() == b"input" and b.text == b"(" for a, b in pairwise(found))
        return is_insert and (calls_input or any(token.is_word(b"INFILE") for token in found))


Statement = Reading | Inserting | Command


def tokens(text: bytes) -> Iterator[Token]:
    """The tokens of `text` in order, spaces and comments left out; an unclosed quote or comment is one token to the end."""
    depth = 0
    for found in _TOKEN.finditer(text):
        kind = found.lastgroup or "mark"
        if kind == "tag":
            kind = "heredoc"
        if kind == "space":
            continue
        piece = found.group()
        if piece in _CLOSE:
            depth -= 1
        yield Token(kind, piece, found.start(), found.end(), depth)
        if piece in _OPEN:
            depth += 1


def starts_insert(text: bytes) -> bool:
    """Whether the first word of `text` is INSERT (also when `text` is only the beginning of a statement)."""
    first = next(tokens(text), None)
    return first is not None and first.is_word(b"INSERT")


def find_insert(text: bytes, *, is_complete: bool) -> Inserting | None:
    """The INSERT at the start of `text` when the place of its data can be seen; `text` may be a first part only."""
    stream = tokens(text)
    previous = next(stream, None)
    if previous is None or not previous.is_word(b"INSERT"):
        return None
    for token in stream:
        is_name = previous.text == b"." or previous.is_word(b"INTO", b"TABLE")
        if token.is_word(b"SELECT", b"WITH", b"INFILE") and not is_name:
            return None
        if token.is_word(b"VALUES") and not is_name and not previous.is_word(b"FORMAT"):
            return Inserting(text[: token.start], "Values", token.end)
        if token.kind == "word" and previous.is_word(b"FORMAT"):
            gap = _DATA_GAP.match(text, token.end)
            data_at = gap.end() if gap else token.end
            if data_at == len(text) and not is_complete:
                return None  # more of the name or of the gap may follow
            return Inserting(text[: previous.start], token.text.decode(errors="replace"), data_at)
        previous = token
    return None


def parse_statement(text: bytes) -> Statement:
    """What the complete `text` is, by its first word; INSERT with data must have been looked for by `find_insert` first."""
    found = list(tokens(text))
    while found and found[-1].text == b";":
        found.pop()
    text = text[: found[-1].end] if found else b""
    if not found:
        return Command(text)
    if found[0].is_word(b"INSERT") and not any(token.is_word(b"SELECT", b"WITH", b"INFILE") for token in found):
        return Inserting(text, "", len(text))
    first = next((token for token in found if token.text != b"("), found[0])
    reads = first.kind == "word" and first.text.upper() in _READS
    if not reads or any(token.is_word(b"INSERT") for token in found if not found[0].is_word(b"EXPLAIN")):
        return Command(text)
    return _reading(text, found)


def _reading(text: bytes, found: list[Token]) -> Reading:
    """Find the FORMAT clause: the last FORMAT with a name that ends the statement or stands before SETTINGS."""
    for index in range(len(found) - 2, 0, -1):
        if not found[index].is_word(b"FORMAT") or found[index + 1].kind != "word":
            continue
        if index + 2 == len(found) or found[index + 2].is_word(b"SETTINGS"):
            return Reading(text, found[index + 1].text.decode(errors="replace"), found[index].start)
    return Reading(text, "", len(text))


def kill_by_comment(text: bytes) -> bytes:
    """KILL QUERY with `query_id` replaced by what carries the client's id inside the engine; other text unchanged."""
    found = list(tokens(text))
    if len(found) < 2 or not found[0].is_word(b"KILL") or not found[1].is_word(b"QUERY"):
        return text
    pieces: list[bytes] = []
    at = 0
    for token in found:
        if token.kind in {"word", "quoted"} and token.text.strip(b'`"').lower() == b"query_id":
            pieces += [text[at : token.start], b"Settings['log_comment']"]
            at = token.end
    return b"".join((*pieces, text[at:]))
