"""An answer as a value, whoever gives it: an endpoint, the application's shell or the connection itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

Header = tuple[bytes, bytes]
"""A lower-case header name and its value."""


class Answer(NamedTuple):
    """What to send back. A NamedTuple, because one is built per request: a frozen dataclass takes more than twice as long."""

    status: int
    body: bytes
    """A JSON object; its content type is always application/json."""
    headers: tuple[Header, ...] = ()
    """Without content-type, content-length and connection, which the shell adds. What differs most often stands last."""
    close: bool = False
    """Close the connection afterwards: the rest of the request is not worth reading."""
    reason: str = ""
    """Why it is a refusal, for counters; empty when the request was served."""


class AlikeAnswers(NamedTuple):
    """Answers that differ in a number, the value of their last header field, and in a text of their bodies; at least one."""

    status: int
    headers: tuple[Header, ...]
    """All but the last."""
    name: bytes
    """Of the last header field."""
    numbers: Sequence[int]
    """By place, its value."""
    before: bytes
    """What a body begins with."""
    texts: Sequence[bytes]
    """By place, what follows; all of the same length."""
    after: bytes
    """What a body ends with."""

    def at(self, place: int) -> Answer:
        """One of them."""
        last = self.name, b"%d" % self.numbers[place]
        return Answer(self.status, self.before + self.texts[place] + self.after, (*self.headers, last))
