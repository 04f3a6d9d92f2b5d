"""One HTTP request as ClickHouse reads it: query, settings, parameters, credentials, encodings. Pure.

In the URL, reserved names steer the exchange, ``param_x`` binds ``{x:Type}`` and every other name is a setting.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import HTTP
from typing import Final
from urllib.parse import parse_qsl

from clickledger.clickhouse_server.errors import (
    AUTHENTICATION_FAILED,
    BAD_ARGUMENTS,
    INVALID_SESSION_TIMEOUT,
    NOT_IMPLEMENTED,
    refusal,
)

SESSION_SECONDS_DEFAULT: Final = 60  # default_session_timeout of the server
SESSION_SECONDS_MAX: Final = 3600  # max_session_timeout of the server
FIELDS_MAX: Final = 1000  # names in one URL; drivers send a dozen
QUERY_ID_MAX: Final = 256  # characters of a client's query id
DEFAULT_FORMAT: Final = "TabSeparated"  # of the HTTP interface

# Content-Encoding to the name ClickHouse's INTO OUTFILE … COMPRESSION knows.
ENCODINGS: Final = {
    "gzip": "gzip",
    "x-gzip": "gzip",
    "deflate": "deflate",
    "br": "br",
    "zstd": "zstd",
    "lz4": "lz4",
    "xz": "xz",
    "bz2": "bz2",
}
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_RESERVED: Final = frozenset(
    {"query", "query_id", "user", "password", "quota_key", "database", "default_format", "compress", "decompress"}
    | {"stacktrace", "buffer_size", "wait_end_of_query", "session_id", "session_timeout", "session_check"}
    | {"close_session", "client_protocol_version", "role"}
    | {"http_native_compression_disable_checksumming_on_decompress"},
)
# Settings of the HTTP interface itself: read here, nothing of the engine's.
_HTTP_ONLY: Final = frozenset({"http_wait_end_of_query", "http_response_buffer_size", "add_http_cors_header"})


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks; `given` is False when the request named neither user nor password."""

    user: str
    password: str
    given: bool


@dataclass(frozen=True, slots=True)
class Request:
    """What a request asks for, apart from its body."""

    credentials: Credentials
    query: bytes = b""
    database: str = ""
    default_format: str = DEFAULT_FORMAT
    query_id: str = ""
    session_id: str = ""
    session_seconds: int = SESSION_SECONDS_DEFAULT
    session_must_exist: bool = False
    session_ends: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    body_encoding: str = ""
    """Content-Encoding of the body, '' for none."""
    body_in_blocks: bool = False
    """decompress=1: the body is native compressed blocks."""
    answer_encoding: str = ""
    """Content-Encoding for the answer, '' for none."""
    answer_in_blocks: bool = False
    """compress=1: the answer is native compressed blocks."""
    native_revision: int = 0
    """client_protocol_version: how a Native answer is framed; 0 for the plain form."""
    wait_for_end: bool = False
    is_read: bool = False
    """GET or HEAD: ClickHouse lets these change nothing."""


def is_true(value: str) -> bool:
    """A flag as ClickHouse reads it: 1 or true in any case."""
    return value.lower() in {"1", "true"}


def parse_request(
    method: str,
    query_string: bytes,
    headers: Iterable[tuple[bytes, bytes]],
    form: Mapping[str, bytes] | None = None,
) -> Request:
    """The request of a method, a raw query string, (lower-case name, value) headers and a form's fields.

    Raises StatementError.
    """
    named = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
    try:
        pairs = parse_qsl(  # Latin-1 stands for bytes: given bytes, it wants them to be ASCII once they are unquoted
            query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=FIELDS_MAX, encoding="latin-1"
        )
    except ValueError as exc:
        raise refusal(BAD_ARGUMENTS, f"Bad query string: {exc}") from exc
    fields = {name.encode("latin-1").decode("utf-8", "replace"): value.encode("latin-1") for name, value in pairs}
    return _from_fields(method, {**fields, **(form or {})}, named)


def _from_fields(method: str, raw: Mapping[str, bytes], headers: Mapping[str, str]) -> Request:
    """The request of decoded URL (and form) fields and headers; raises StatementError."""
    fields = {name: value.decode("utf-8", "replace") for name, value in raw.items()}
    params = {name[6:]: value for name, value in fields.items() if name.startswith("param_")}
    settings = {
        name: value
        for name, value in fields.items()
        if name not in _RESERVED and name not in _HTTP_ONLY and not name.startswith("param_")
    }
    for name in (*params, *settings):
        if not _NAME.match(name):
            raise refusal(BAD_ARGUMENTS, f"Not a name of a setting or parameter: {name!r}")
    _check_unsupported(fields)
    database = _name(fields.get("database", "") or headers.get("x-clickhouse-database", ""))
    default_format = _name(fields.get("default_format", "") or headers.get("x-clickhouse-format", "") or DEFAULT_FORMAT)
    in_blocks = is_true(fields.get("compress", ""))
    wants_encoding = is_true(settings.get("enable_http_compression", "")) and not in_blocks
    return Request(
        credentials=_credentials(fields, headers),
        query=raw.get("query", b""),
        database=database,
        default_format=default_format,
        query_id=_query_id(fields.get("query_id", "")),
        session_id=fields.get("session_id", ""),
        session_seconds=_session_seconds(fields.get("session_timeout", "")),
        session_must_exist=is_true(fields.get("session_check", "")),
        session_ends=is_true(fields.get("close_session", "")),
        settings=settings,
        params=params,
        body_encoding=headers.get("content-encoding", "").strip().lower().replace("identity", ""),
        body_in_blocks=is_true(fields.get("decompress", "")),
        answer_encoding=choose_encoding(headers.get("accept-encoding", "")) if wants_encoding else "",
        answer_in_blocks=in_blocks,
        wait_for_end=is_true(fields.get("wait_end_of_query", fields.get("http_wait_end_of_query", ""))),
        native_revision=_revision(fields.get("client_protocol_version", "")),
        is_read=method in {"GET", "HEAD"},
    )


def _name(text: str) -> str:
    if text and not _NAME.match(text):
        raise refusal(BAD_ARGUMENTS, f"Not a name of a database or format: {text!r}")
    return text


def _query_id(text: str) -> str:
    """A client's id; it goes into a header of the answer, so it is one printable line."""
    if len(text) > QUERY_ID_MAX or not text.isprintable():
        raise refusal(BAD_ARGUMENTS, f"query_id is no printable text of at most {QUERY_ID_MAX} characters")
    return text


def _check_unsupported(fields: Mapping[str, str]) -> None:
    if fields.get("role"):
        raise refusal(NOT_IMPLEMENTED, "Roles cannot be chosen by the client here")


def _credentials(fields: Mapping[str, str], headers: Mapping[str, str]) -> Credentials:
    """X-ClickHouse-User/-Key, else Basic authorization, else user and password in the URL; never two of them mixed."""
    in_headers = "x-clickhouse-user" in headers or "x-clickhouse-key" in headers
    authorization = headers.get("authorization", "")
    in_url = "user" in fields or "password" in fields
    if in_headers + bool(authorization) + in_url > 1:
        raise refusal(
            AUTHENTICATION_FAILED,
            "Invalid authentication: it is not allowed to use several ways to authenticate at once",
        )
    if in_headers:
        return Credentials(
            headers.get("x-clickhouse-user") or "default", headers.get("x-clickhouse-key", ""), given=True
        )
    if authorization:
        return _basic(authorization)
    return Credentials(fields.get("user") or "default", fields.get("password", ""), given=in_url)


def _basic(authorization: str) -> Credentials:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        raise refusal(AUTHENTICATION_FAILED, "Invalid authentication: only Basic is understood in Authorization")
    try:
        user, _, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (ValueError, binascii.Error) as exc:
        raise refusal(AUTHENTICATION_FAILED, "Invalid authentication: these are no Basic credentials") from exc
    return Credentials(user or "default", password, given=True)


def _session_seconds(text: str) -> int:
    if not text:
        return SESSION_SECONDS_DEFAULT
    if not text.isascii() or not text.isdigit() or int(text) > SESSION_SECONDS_MAX:
        raise refusal(INVALID_SESSION_TIMEOUT, f"Session timeout {text!r} is not a number up to {SESSION_SECONDS_MAX}")
    return int(text)


def _revision(text: str) -> int:
    if text and not (text.isascii() and text.isdigit() and len(text) < 10):
        raise refusal(BAD_ARGUMENTS, f"client_protocol_version {text!r} is not a number")
    return int(text or "0")


def choose_encoding(accept: str) -> str:
    """The first Content-Encoding of an Accept-Encoding header that we can write and that is not refused by q=0; else ''."""
    for item in accept.split(","):
        name, _, weight = item.strip().lower().partition(";")
        if name.strip() in ENCODINGS and weight.replace(" ", "") not in {"q=0", "q=0.0"}:
            return name.strip()
    return ""


def form_fields(content_type: str, body: bytes) -> dict[str, bytes]:
    """The fields of a multipart form (drivers may send parameters so); files (external tables) are refused."""
    message = message_from_bytes(b"content-type: " + content_type.encode("latin-1") + b"\r\n\r\n" + body, policy=HTTP)
    fields: dict[str, bytes] = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        if part.get_filename() is not None or not isinstance(name, str):
            raise refusal(NOT_IMPLEMENTED, "External tables in a form are not supported")
        payload = part.get_payload(decode=True)
        fields[name] = payload if isinstance(payload, bytes) else b""
    return fields
