"""Every answer of the API: status, code and published text, in one table.

Clients decide on the body's keys alone: `transaction-id` means accepted, `code` and `description` mean refused, and no
body ever holds both. Each refusal has one member of `Refusal`, which is also the label of its counter; the published
code and text follow from the member, so that no other module spells a code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, StrEnum
from http import HTTPStatus
from typing import Final, Literal

import orjson

from shared.http.answer import Answer, Header

RESULTS_APART: Final = b",\n"
"""Between two results of a batch."""
RETRY_AFTER: Final[Header] = (b"retry-after", b"1")
"""Seconds to wait after a 500: Kafka elects a new leader and a catalog catches up in about that."""
ALLOW_POST: Final[Header] = (b"allow", b"POST")


class Refusal(StrEnum):
    """Why a request or a line of a batch was not accepted: closed, one per cause."""

    # a known link whose click is deliberately not recorded
    RETENTION_PASSED = "retention_passed"
    LINK_EXPIRED = "link_expired"
    LINK_DISABLED = "link_disabled"
    # authorization
    AUTHORIZATION_MISSING = "authorization_missing"
    AUTHORIZATION_DOUBLED = "authorization_doubled"
    AUTHORIZATION_MALFORMED = "authorization_malformed"
    KEY_UNKNOWN = "key_unknown"
    KEY_EXPIRED = "key_expired"
    KEY_REVOKED = "key_revoked"
    GRANT_MISSING = "grant_missing"
    AUTHENTICATIONS_FAILED = "authentications_failed"
    # rate
    THROTTLED = "throttled"
    # request line and headers
    METHOD = "method"
    PATH_UNKNOWN = "path_unknown"
    BODY_TOO_LARGE = "body_too_large"
    CONTENT_TYPE = "content_type"
    CONTENT_ENCODING = "content_encoding"
    IDEMPOTENCY_KEY = "idempotency_key"
    # body
    BODY_EMPTY = "body_empty"
    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    TOO_DEEP = "too_deep"
    FIELD_DOUBLED = "field_doubled"
    FIELD_TYPE = "field_type"
    BATCH_TOO_LONG = "batch_too_long"
    LINE_TOO_LARGE = "line_too_large"
    SHORT_URL_MISSING = "short_url_missing"
    # short URL
    URL_TOO_LONG = "url_too_long"
    URL_SCHEME = "url_scheme"
    URL_USERINFO = "url_userinfo"
    URL_INVALID = "url_invalid"
    LINK_UNKNOWN = "link_unknown"
    LINK_OF_OTHER_TENANT = "link_of_other_tenant"
    # ours
    CATALOG_NOT_READY = "catalog_not_ready"
    CATALOG_STALE = "catalog_stale"
    NOT_DURABLE = "not_durable"
    OVERLOADED = "overloaded"
    WAIT_TOO_LONG = "wait_too_long"
    TENANT_SHARE = "tenant_share"
    CONNECTIONS_FULL = "connections_full"
    UNFINISHED_FULL = "unfinished_full"
    REGISTRATIONS_FULL = "registrations_full"
    LISTINGS_FULL = "listings_full"
    OUTCOME_UNKNOWN = "outcome_unknown"
    STOPPING = "stopping"
    INTERNAL_ERROR = "internal_error"


class Published(Enum):
    """The answers of the published page (code, text); their HTTP status is in `Answers`."""

    NOT_PROCESSED = (1010, "The request was not processed.")
    NOT_ALLOWED = (430, "Authorization failed. This resource is not allowed to access using this TOKEN or KEY")
    INVALID_TOKEN = (498, "Invalid token or Access token expired")
    METHOD = (405, "Method not supported")
    TOO_MANY = (429, "Too many requests. Throttle limit reached for the time window.")
    FAILED = (499, "Request failed.")
    INTERNAL = (500, "Internal server error")
    INVALID_JSON = (1001, "Invalid input JSON")
    FIELD_MISSING = (1002, "Mandatory field missing")
    NO_PROMOTION = (1003, "Promotion does not exist for the URL given.")
    NOT_FOUND = (404, "Not found")

    @property
    def code(self) -> int:
        """The number in `code`."""
        return self.value[0]

    @property
    def text(self) -> str:
        """What `description` begins with."""
        return self.value[1]


_TABLE: Final[Mapping[Refusal, tuple[Published, str]]] = {
    Refusal.RETENTION_PASSED: (Published.NOT_PROCESSED, "The click is older than the retention period allows."),
    Refusal.LINK_EXPIRED: (Published.NOT_PROCESSED, "The link has expired."),
    Refusal.LINK_DISABLED: (Published.NOT_PROCESSED, "The link is disabled."),
    Refusal.AUTHORIZATION_MISSING: (Published.INVALID_TOKEN, "The Authorization header is missing."),
    Refusal.AUTHORIZATION_DOUBLED: (Published.INVALID_TOKEN, "There is more than one Authorization header."),
    Refusal.AUTHORIZATION_MALFORMED: (
        Published.INVALID_TOKEN,
        "The Authorization header must read: Bearer <access token or API secret key>.",
    ),
    Refusal.KEY_UNKNOWN: (Published.INVALID_TOKEN, ""),
    Refusal.KEY_EXPIRED: (Published.INVALID_TOKEN, "The token has expired."),
    Refusal.KEY_REVOKED: (Published.INVALID_TOKEN, "The key was revoked."),
    Refusal.GRANT_MISSING: (Published.NOT_ALLOWED, ""),
    Refusal.AUTHENTICATIONS_FAILED: (Published.TOO_MANY, "Too many failed authentications from this address."),
    Refusal.THROTTLED: (Published.TOO_MANY, ""),
    Refusal.METHOD: (Published.METHOD, "Use POST."),
    Refusal.PATH_UNKNOWN: (Published.NOT_FOUND, "There is nothing at this path."),
    Refusal.BODY_TOO_LARGE: (Published.INVALID_JSON, "The body is too large."),
    Refusal.CONTENT_TYPE: (Published.INVALID_JSON, "The content type must be application/json."),
    Refusal.CONTENT_ENCODING: (
        Published.INVALID_JSON,
        "The body must not be compressed: no Content-Encoding but identity.",
    ),
    Refusal.IDEMPOTENCY_KEY: (
        Published.FAILED,
        "Idempotency-Key must be 1 to 128 visible ASCII characters, given once.",
    ),
    Refusal.BODY_EMPTY: (Published.INVALID_JSON, "The body is empty."),
    Refusal.NOT_JSON: (Published.INVALID_JSON, "The body is not JSON in UTF-8."),
    Refusal.NOT_AN_OBJECT: (Published.INVALID_JSON, "The body must be a JSON object."),
    Refusal.TOO_DEEP: (Published.INVALID_JSON, "The body is nested more than 32 deep."),
    Refusal.FIELD_DOUBLED: (Published.INVALID_JSON, "A field is given twice."),
    Refusal.FIELD_TYPE: (Published.INVALID_JSON, "A field has the wrong type."),
    Refusal.BATCH_TOO_LONG: (Published.INVALID_JSON, "The batch has too many clicks."),
    Refusal.LINE_TOO_LARGE: (Published.INVALID_JSON, "The click is too large."),
    Refusal.SHORT_URL_MISSING: (Published.FIELD_MISSING, 'The field "short-url" is required.'),
    Refusal.URL_TOO_LONG: (Published.NO_PROMOTION, "The URL is longer than 2,048 bytes."),
    Refusal.URL_SCHEME: (Published.NO_PROMOTION, "The URL is neither http nor https."),
    Refusal.URL_USERINFO: (Published.NO_PROMOTION, "The URL has a user name or password."),
    Refusal.URL_INVALID: (Published.NO_PROMOTION, "The URL cannot be parsed."),
    Refusal.LINK_UNKNOWN: (Published.NO_PROMOTION, ""),
    Refusal.LINK_OF_OTHER_TENANT: (Published.NO_PROMOTION, ""),  # the same text: must not tell that the link exists
    Refusal.CATALOG_NOT_READY: (Published.INTERNAL, "The catalog is not ready; try again."),
    Refusal.CATALOG_STALE: (Published.INTERNAL, "The link is not in the last known catalog; try again."),
    Refusal.NOT_DURABLE: (Published.INTERNAL, "The click could not be stored; try again."),
    Refusal.OVERLOADED: (Published.INTERNAL, "Too many clicks are waiting; try again."),
    Refusal.WAIT_TOO_LONG: (Published.INTERNAL, "Clicks wait too long to be stored; try again."),
    Refusal.TENANT_SHARE: (Published.INTERNAL, "Too many of your clicks are waiting; try again."),
    Refusal.CONNECTIONS_FULL: (Published.INTERNAL, "Too many connections; try again."),
    Refusal.UNFINISHED_FULL: (Published.INTERNAL, "Too much of unfinished requests is waiting; try again."),
    Refusal.REGISTRATIONS_FULL: (Published.INTERNAL, "Too many links or promotions are being registered; try again."),
    Refusal.LISTINGS_FULL: (Published.INTERNAL, "Links are being listed for too many; try again."),
    Refusal.OUTCOME_UNKNOWN: (
        Published.INTERNAL,
        "Whether the click was stored is not known; try again, with an Idempotency-Key to be counted once.",
    ),
    Refusal.STOPPING: (Published.INTERNAL, "This server is stopping; try again."),
    Refusal.INTERNAL_ERROR: (Published.INTERNAL, ""),
}


def published(refusal: Refusal) -> Published:
    """The published answer that a refusal is given as."""
    return _TABLE[refusal][0]


def describe(refusal: Refusal) -> str:
    """Our own words for a refusal, without the published text; empty when there is nothing to add."""
    return _TABLE[refusal][1]


class Answers:
    """Builds answers with the configured codes and statuses; fixed bodies are encoded once.

    `code_type`: `code` as JSON string (ours) or integer. `invalid_token_status`: HTTP status of code 498.
    `invalid_input_status`: HTTP status of codes 1001, 1002 and 1003. The published page leaves those cells empty.
    """

    def __init__(
        self,
        *,
        code_type: Literal["string", "integer"] = "string",
        invalid_token_status: int = 401,
        invalid_input_status: int = 499,
    ) -> None:
        self._integer_codes = code_type == "integer"
        self._status: dict[Published, int] = {
            Published.NOT_PROCESSED: 200,
            Published.NOT_ALLOWED: 401,
            Published.INVALID_TOKEN: invalid_token_status,
            Published.METHOD: 405,
            Published.TOO_MANY: 429,
            Published.FAILED: 499,
            Published.INTERNAL: 500,
            Published.INVALID_JSON: invalid_input_status,
            Published.FIELD_MISSING: invalid_input_status,
            Published.NO_PROMOTION: invalid_input_status,
            Published.NOT_FOUND: 404,
        }
        self._fixed: dict[Refusal, bytes] = {refusal: self._body(refusal, describe(refusal)) for refusal in Refusal}

    def refuse(
        self, refusal: Refusal, detail: str = "", headers: tuple[Header, ...] = (), *, close: bool = False
    ) -> Answer:
        """The answer for `refusal`; `detail` replaces our own words. Adds Allow and, for a 500, Retry-After."""
        answer = _TABLE[refusal][0]
        if answer is Published.INTERNAL:
            headers = (RETRY_AFTER, *headers)
        elif answer is Published.METHOD:
            headers = (ALLOW_POST, *headers)
        return Answer(self._status[answer], self.body(refusal, detail), headers, close, refusal)

    def body(self, refusal: Refusal, detail: str = "") -> bytes:
        """The JSON object of a refusal, as in an answer or as one line's result in a batch."""
        return self._body(refusal, detail) if detail else self._fixed[refusal]

    def code(self, refusal: Refusal) -> str | int:
        """The published code of a refusal, in the configured type."""
        return self._code(published(refusal).code)

    def _code(self, code: int) -> str | int:
        return code if self._integer_codes else str(code)

    def _body(self, refusal: Refusal, detail: str) -> bytes:
        answer = published(refusal)
        return self._encode(answer.code, _join(answer.text, detail))

    def plain(
        self, status: int, detail: str = "", headers: tuple[Header, ...] = (), *, close: bool = False, reason: str = ""
    ) -> Answer:
        """An answer outside the published table, on any other endpoint: `code` is the HTTP status.

        For 400, 401, 403, 404, 409, 410, 413, 429, 431, 503 and the like; `detail` follows the status's own phrase.
        """
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = "Request failed"
        return Answer(status, self._encode(status, _join(phrase, detail)), headers, close, reason or f"http_{status}")

    def _encode(self, code: int, description: str) -> bytes:
        return orjson.dumps({"code": self._code(code), "description": description})


def _join(text: str, detail: str) -> str:
    if not detail:
        return text
    return f"{text} {detail}" if text.endswith(".") else f"{text}: {detail}"


_ACCEPTED: Final = b'{"transaction-id":"%b"}'
ACCEPTED_AROUND: Final = tuple(_ACCEPTED.split(b"%b"))
"""What stands before and after the transaction-id in the body of a success."""
_BETWEEN_ACCEPTED: Final = RESULTS_APART.join(reversed(ACCEPTED_AROUND))


def accepted_body(transaction_id: bytes) -> bytes:
    """The whole body of a success; `transaction_id` is 36 ASCII bytes."""
    return _ACCEPTED % transaction_id


def all_accepted(transaction_ids: Sequence[bytes]) -> bytes:
    """The successes of at least one click of a batch, joined as its results are."""
    return _ACCEPTED % _BETWEEN_ACCEPTED.join(transaction_ids)
