"""ClickHouse's errors as its HTTP interface shows them: a code, a text, an HTTP status.

The engine's own messages pass unchanged; only what a server would add (the version) is added.
"""

import re
from http import HTTPStatus
from typing import Final

_MESSAGE: Final = re.compile(r"Code: (\d+)\. DB::Exception: ")

SYNTAX_ERROR: Final = 62
BAD_ARGUMENTS: Final = 36
NOT_IMPLEMENTED: Final = 48
READONLY: Final = 164
INTO_OUTFILE_NOT_ALLOWED: Final = 175
QUERY_IS_TOO_LARGE: Final = 223
REQUIRED_PASSWORD: Final = 194
TOO_MANY_SIMULTANEOUS_QUERIES: Final = 202
SOCKET_TIMEOUT: Final = 209
NETWORK_ERROR: Final = 210
QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING: Final = 216
CANNOT_DECOMPRESS: Final = 271
SESSION_NOT_FOUND: Final = 372
SESSION_IS_LOCKED: Final = 373
INVALID_SESSION_TIMEOUT: Final = 374
QUERY_WAS_CANCELLED: Final = 394
ACCESS_DENIED: Final = 497
AUTHENTICATION_FAILED: Final = 516
UNKNOWN_EXCEPTION: Final = 1002

_NAMES: Final = {
    SYNTAX_ERROR: "SYNTAX_ERROR",
    BAD_ARGUMENTS: "BAD_ARGUMENTS",
    NOT_IMPLEMENTED: "NOT_IMPLEMENTED",
    READONLY: "READONLY",
    INTO_OUTFILE_NOT_ALLOWED: "INTO_OUTFILE_NOT_ALLOWED",
    QUERY_IS_TOO_LARGE: "QUERY_IS_TOO_LARGE",
    REQUIRED_PASSWORD: "REQUIRED_PASSWORD",
    TOO_MANY_SIMULTANEOUS_QUERIES: "TOO_MANY_SIMULTANEOUS_QUERIES",
    SOCKET_TIMEOUT: "SOCKET_TIMEOUT",
    NETWORK_ERROR: "NETWORK_ERROR",
    QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING: "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING",
    CANNOT_DECOMPRESS: "CANNOT_DECOMPRESS",
    SESSION_NOT_FOUND: "SESSION_NOT_FOUND",
    SESSION_IS_LOCKED: "SESSION_IS_LOCKED",
    INVALID_SESSION_TIMEOUT: "INVALID_SESSION_TIMEOUT",
    QUERY_WAS_CANCELLED: "QUERY_WAS_CANCELLED",
    ACCESS_DENIED: "ACCESS_DENIED",
    AUTHENTICATION_FAILED: "AUTHENTICATION_FAILED",
    UNKNOWN_EXCEPTION: "UNKNOWN_EXCEPTION",
}

# exceptionCodeToHTTPStatus of the server: parse errors are 400, unknown things 404, refusals 403, the rest 500.
_BAD_REQUEST: Final = (6, 9, 15, 16, 25, 26, 27, 36, 38, 41, 44, 53, 62, 69, 72, 117, 167, 168, 181, 187, 190, 427, 441)
_BAD_REQUEST_TOO: Final = (675, 676)
_NOT_FOUND: Final = (46, 47, 50, 56, 60, 63, 73, 78, 81, 106, 115, 176, 511)
_FORBIDDEN: Final = (192, 193, 497, 512, 516)
_STATUS: Final = {
    **dict.fromkeys(_BAD_REQUEST + _BAD_REQUEST_TOO, HTTPStatus.BAD_REQUEST),
    **dict.fromkeys(_NOT_FOUND, HTTPStatus.NOT_FOUND),
    **dict.fromkeys(_FORBIDDEN, HTTPStatus.FORBIDDEN),
    REQUIRED_PASSWORD: HTTPStatus.UNAUTHORIZED,
    QUERY_IS_TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    NOT_IMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    159: HTTPStatus.REQUEST_TIMEOUT,
    76: HTTPStatus.SERVICE_UNAVAILABLE,
    439: HTTPStatus.SERVICE_UNAVAILABLE,
    SOCKET_TIMEOUT: HTTPStatus.SERVICE_UNAVAILABLE,
    NETWORK_ERROR: HTTPStatus.SERVICE_UNAVAILABLE,
    # The server answers 500 here; 503 tells proxies and clients to come back, and the code in the text stays the same.
    TOO_MANY_SIMULTANEOUS_QUERIES: HTTPStatus.SERVICE_UNAVAILABLE,
}


class StatementError(Exception):
    """A statement failed: `code` is ClickHouse's error code, `text` its whole message without the version."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text

    @property
    def status(self) -> HTTPStatus:
        """The HTTP status that a ClickHouse server answers for this code."""
        return _STATUS.get(self.code, HTTPStatus.INTERNAL_SERVER_ERROR)

    def body(self, version: str) -> str:
        """The text of the answer: one line, with the server's version as every server adds it."""
        text = self.text.rstrip()
        return f"{text}\n" if f"(version {version}" in text[-60:] else f"{text} (version {version})\n"


def refusal(code: int, message: str) -> StatementError:
    """An error of our own in ClickHouse's words; `code` is one of the constants of this module."""
    return StatementError(code, f"Code: {code}. DB::Exception: {message} ({_NAMES[code]})")


def from_engine(message: str) -> StatementError:
    """The engine's message as an error; a message without a code (chDB's own) becomes UNKNOWN_EXCEPTION."""
    found = _MESSAGE.search(message)
    if found is None:
        return refusal(UNKNOWN_EXCEPTION, message)
    return StatementError(int(found.group(1)), message[found.start() :])
