"""A webhook: what its owner asks for, the record in the catalog, what its owner is shown. Pure.

URL, header fields and signing secrets stand in the record sealed (`shared/secret_box.py`), bound to the webhook's id: a
URL is often all that a receiver asks for.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from reporting.webhooks.places import Mark, decode_marks, encode_marks
from reporting.webhooks.schedule import Stop
from shared.events import Status
from shared.rte import FILTER_CHARS_MAX, FILTER_VALUES_MAX, NEVER_STREAMED, STREAMED, Filter
from shared.secret_box import SecretBox

RECORD_VERSION: Final = 1
PURPOSE: Final = "webhooks"
"""What secrets are sealed for."""
SECRET_BYTES: Final = 32
"""Standard Webhooks asks for 24 to 64."""
SECRETS_MAX: Final = 3
"""That sign at the same time: the newest, and those replaced within the overlap."""
OVERLAP_MS: Final = 86_400_000
"""How long a replaced secret still signs, beside the new one (24 h)."""
HEADERS_MAX: Final = 10

_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_HEADER_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,1022}[\x21-\x7e])?")
_OURS: Final = frozenset(
    {
        *(
            "host",
            "content-type",
            "content-length",
            "content-encoding",
            "transfer-encoding",
            "connection",
            "keep-alive",
        ),
        *(
            "te",
            "trailer",
            "upgrade",
            "expect",
            "proxy-authorization",
            "proxy-connection",
            "user-agent",
            "accept-encoding",
        ),
    }
)
"""Fields that belong to the connection or to us; so do all that begin with `webhook-`."""

_Text = Annotated[str, Field(min_length=1, max_length=FILTER_CHARS_MAX)]
_Texts = Annotated[list[_Text], Field(max_length=FILTER_VALUES_MAX)]


_Status = Annotated[
    Literal["accepted", "duplicate", "rejected", "malformed"],
    WithJsonSchema({"type": "string", "enum": [status for status in Status if status in STREAMED]}),
]
"""What can be asked for is described; `duplicate` is still read from records."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class FilterBody(_Body):
    """Which clicks are wanted: what is given must all hold, an empty list wants all."""

    status: Annotated[list[_Status], Field(max_length=4)] = []
    promotion_id: _Texts = []
    link: _Texts = Field([], description="short URLs as sent, or registered links (`host/path`)")
    bots: Literal["any", "yes", "no"] = Field("any", description="yes: bots only; no: no bots")

    def compiled(self, tenant: str) -> Filter:
        """As the stream's other readers have it."""
        return Filter.of(
            statuses=self.status, promotions=self.promotion_id, links=self.link, bots=self.bots, tenant=tenant
        )


def _of_events(wanted: FilterBody) -> FilterBody:
    """What no event can be is refused where it is asked for; records that have it are still read."""
    if Status.DUPLICATE in wanted.status:
        raise PydanticCustomError("never_streamed", f"status: {NEVER_STREAMED}")
    return wanted


_Asked = Annotated[FilterBody, AfterValidator(_of_events)]


class BatchBody(_Body):
    """Several events in one request, as a JSON array."""

    events_max: int = Field(100, ge=1, le=1_000, description="events of one request")
    bytes_max: int = Field(262_144, ge=4_096, le=1_048_576, description="bytes of one request's events")
    linger_ms: int = Field(1_000, ge=0, le=60_000, description="ms to wait for further events after the first one")


class WebhookBody(_Body):
    """What can be asked for."""

    url: str = Field(description="https, at most 2,048 characters, without user and fragment")
    description: str = Field("", max_length=256)
    enabled: bool = True
    filter: _Asked = FilterBody()
    batch: BatchBody | None = Field(None, description="null: one event in each request")
    headers: dict[str, str] = Field(
        {}, max_length=HEADERS_MAX, description="further header fields of each request; values are not shown again"
    )


class WebhookChange(_Body):
    """What can be changed; what is absent stays as it is."""

    url: str | None = None
    description: str | None = Field(None, max_length=256)
    enabled: bool | None = Field(None, description="true also after it was disabled by us: it goes on where it stood")
    filter: _Asked | None = None
    batch: BatchBody | None = None
    headers: dict[str, str] | None = Field(None, max_length=HEADERS_MAX)
    position: Literal["latest"] | None = Field(None, description="leave out all that was not delivered yet")


class ReplayBody(_Body):
    """A range of `received_at`: RFC 3339 with zone, or milliseconds since the epoch."""

    from_: str | int = Field(alias="from")
    to: str | int | None = Field(None, description="exclusive; now")


@dataclass(frozen=True, slots=True)
class Secret:
    """One signing secret."""

    text: str
    """`whsec_…`"""
    until_ms: int | None = None
    """When it stops signing; None: not yet replaced."""


@dataclass(frozen=True, slots=True)
class Confidential:
    """What is sealed in the record."""

    url: str
    headers: Mapping[str, str]
    secrets: tuple[Secret, ...]
    """The newest first."""

    def signing(self, now_ms: int) -> list[str]:
        """The secrets that sign now."""
        return [each.text for each in self.secrets if each.until_ms is None or now_ms < each.until_ms]

    def rotated(self, secret: str, now_ms: int) -> Confidential:
        """With a new secret; the former ones sign for a while."""
        end = now_ms + OVERLAP_MS
        former = [Secret(each.text, end if each.until_ms is None else each.until_ms) for each in self.secrets]
        kept = [each for each in former if each.until_ms is not None and each.until_ms > now_ms]
        return replace(self, secrets=(Secret(secret), *kept[: SECRETS_MAX - 1]))


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook as it stands in the catalog."""

    tenant: str
    webhook_id: str
    description: str
    is_enabled: bool
    """As its owner wants it; see also `StopRecord`."""
    filter: FilterBody
    batch: BatchBody | None
    sealed: str
    stream: str
    start: Mapping[int, Mark]
    """Where it begins."""
    reset: int
    """Raised with each new start."""
    enablings: int
    """Raised whenever its owner enables it: a stop belongs to one of them."""
    created_at_ms: int
    updated_at_ms: int

    @property
    def key(self) -> str:
        """Its id in the catalog; what its secrets are bound to."""
        return webhook_key(self.tenant, self.webhook_id)

    @property
    def asked(self) -> str:
        """Digest of which events are wanted in one request."""
        asked = {"filter": self.filter.model_dump(), "batch": self.batch and self.batch.model_dump()}
        return hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]

    def opened(self, box: SecretBox) -> Confidential:
        """What is sealed. Raises NotOurs."""
        found = orjson.loads(box.decrypt_text(self.sealed, self.key.encode()))
        return Confidential(found["url"], found["headers"], tuple(Secret(*each) for each in found["secrets"]))


@dataclass(frozen=True, slots=True)
class StopRecord:
    """That we disabled a webhook; holds until its owner enables it again."""

    enablings: int
    reason: Stop
    at_ms: int


def webhook_key(tenant: str, webhook_id: str) -> str:
    """The id of a webhook's record: webhooks belong to a tenant."""
    return f"{tenant}/{webhook_id}"


def seal(box: SecretBox, key: str, confidential: Confidential) -> str:
    """What `Webhook.opened` opens."""
    content = {
        "url": confidential.url,
        "headers": dict(confidential.headers),
        "secrets": [[each.text, each.until_ms] for each in confidential.secrets],
    }
    return box.encrypt_text(orjson.dumps(content), key.encode())


def make_secret(random_bytes: bytes) -> str:
    """A signing secret in the scheme's form."""
    return "whsec_" + base64.b64encode(random_bytes).decode()


def header_faults(headers: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with header fields that were asked for; values are never named."""
    if len({name.lower() for name in headers}) < len(headers):
        yield "headers: a name stands there twice"
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            yield "headers: a name has 1 to 64 characters that HTTP allows in names"
        elif name.lower() in _OURS or name.lower().startswith("webhook-"):
            yield f"headers: {name} cannot be set"
        elif not _HEADER_VALUE.fullmatch(value):
            yield f"headers: the value of {name} has 1 to 1,024 printable ASCII characters"


def encode_webhook(webhook: Webhook) -> dict[str, Any]:
    """The record in the catalog."""
    return {
        "v": RECORD_VERSION,
        "tenant": webhook.tenant,
        "id": webhook.webhook_id,
        "description": webhook.description,
        "enabled": webhook.is_enabled,
        "filter": webhook.filter.model_dump(),
        "batch": webhook.batch and webhook.batch.model_dump(),
        "sealed": webhook.sealed,
        "stream": webhook.stream,
        "start": encode_marks(webhook.start),
        "reset": webhook.reset,
        "enablings": webhook.enablings,
        "created_at": webhook.created_at_ms,
        "updated_at": webhook.updated_at_ms,
    }


def decode_webhook(record: Mapping[str, Any]) -> Webhook:
    """Read what `encode_webhook` wrote."""
    return Webhook(
        tenant=record["tenant"],
        webhook_id=record["id"],
        description=record["description"],
        is_enabled=record["enabled"],
        filter=FilterBody(**record["filter"]),
        batch=record["batch"] and BatchBody(**record["batch"]),
        sealed=record["sealed"],
        stream=record["stream"],
        start=decode_marks(record["start"]),
        reset=record["reset"],
        enablings=record["enablings"],
        created_at_ms=record["created_at"],
        updated_at_ms=record["updated_at"],
    )


def encode_stop(stop: StopRecord) -> dict[str, Any]:
    """The record of a stop."""
    return {"v": RECORD_VERSION, "enablings": stop.enablings, "reason": stop.reason, "at": stop.at_ms}


def stop_of(webhook: Webhook, record: Mapping[str, Any] | None) -> StopRecord | None:
    """Why the webhook is disabled, None while it is not. `record`: the last stop that was written."""
    if not webhook.is_enabled:
        return StopRecord(webhook.enablings, Stop.BY_USER, webhook.updated_at_ms)
    if record is None or record["enablings"] < webhook.enablings:
        return None
    return StopRecord(record["enablings"], Stop(record["reason"]), record["at"])
