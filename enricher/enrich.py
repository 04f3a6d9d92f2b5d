"""One raw record in, one enriched record out: named steps over a decoded click, then the exact bytes.

Rules:

* Every raw record becomes a row. What `decode_raw` refuses, and any exception of a step, is a `malformed` row with its
  reason and the original bytes. A well-formed click that must not count is `rejected`.
* An error of the environment (catalog behind, database unreadable, disk) is raised and never becomes a row.
* The row can always be stored: strings are bounded and valid UTF-8, integers fit their columns, times are between
  2001 and 2100, the id is a UUID.
* What was true at acceptance stays true: the link travels in the record, and a click that the API accepted is never
  rejected for a link, promotion or retention that changed meanwhile. Those are checked for reprocessed clicks only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import orjson

from enricher.agents import given_agent
from enricher.directory import Directory, Tenant
from enricher.malformed import malformed_row
from enricher.raw_bytes import keep_raw
from enricher.row import (
    CATALOG_VERSION_MAX,
    EMPTY,
    ID_BYTES_MAX,
    RECEIVED_AHEAD_MS_MAX,
    TIME_MS_MAX,
    TIME_MS_MIN,
    UUID,
    EnrichedRecord,
    RawRecord,
    Row,
    Tools,
    encode_row,
    expires_at_ms,
    privacy_of,
    put_position,
    replay_of_text,
    retention_ms_of,
    text_of,
    time_ms_of,
)
from enricher.texts import bounded
from shared.clicked_at import clicked_at_ms
from shared.errors import OperatorError, TransientError
from shared.events import MalformedRaw, RawClick, Reason, Source, Status, decode_raw

CLICKED_AHEAD_MS_MAX: Final = 86_400_000
CLICKED_BEHIND_MS_MAX: Final = 3_650 * 86_400_000
"""The widest bounds that the API's settings allow. The API judged the `clicked-at` by its settings and the tenant's
retention, said so in `clicked_at_ignored`, and what was true at acceptance stays true; these only keep times sane."""
NAME_BYTES_MAX: Final = 512
URL_BYTES_MAX: Final = 2048
"""contract.md: longer short URLs are 1003."""
LONG_URL_BYTES_MAX: Final = 8192
"""What browsers and servers accept."""


class CatalogBehind(TransientError):
    """Our copy of the catalog has not reached the version that a click was stamped with."""

    def __init__(self, wanted: int, reached: int) -> None:
        super().__init__(f"catalog version {wanted} not reached, at {reached}")
        self.wanted = wanted


def enrich(raw: RawRecord, tools: Tools, now_ms: int, catalog_end: int | None = None) -> EnrichedRecord:
    """The enriched record of a raw record; `now_ms` becomes `enriched_at`.

    `catalog_end`: the last version in the catalog topic, where it was proved after this record was read; a stamp
    beyond it is malformed. Raises CatalogBehind when our copy has not reached the stamp (wait, or prove the end, and
    call again) and TransientError, OperatorError, OSError or MemoryError when the environment fails.
    """
    click: RawClick | None = None
    try:
        _check_size(raw, tools.raw_bytes_max)
        click = decode_raw(raw.value)
        check_record(raw, click, now_ms)
        _check_catalog(click, tools.directory, catalog_end)
        row = _run_steps(raw, click, tools, now_ms)
    except MalformedRaw as exc:
        row = malformed_row(raw, click, tools, now_ms, exc.reason)
    except (TransientError, OperatorError, OSError, MemoryError):
        raise
    except Exception:  # noqa: BLE001  # a bug in a step must cost one click's fields, not stop its partition
        row = malformed_row(raw, click, tools, now_ms, Reason.INTERNAL_ERROR)
    return encode_row(raw, row)


def _check_size(raw: RawRecord, bytes_max: int) -> None:
    if raw.value is not None and len(raw.value) > bytes_max:
        raise MalformedRaw(Reason.TOO_LARGE, f"{len(raw.value)} bytes, limit {bytes_max}")


def check_record(raw: RawRecord, click: RawClick, now_ms: int) -> None:
    """What `decode_raw` cannot know: that the record's fields can be stored and belong to its key. Raises MalformedRaw."""
    if UUID.fullmatch(click.transaction_id) is None:
        raise MalformedRaw(Reason.FIELD_INVALID, "transaction_id is no UUID")
    if raw.key != click.transaction_id.encode():
        raise MalformedRaw(Reason.KEY_MISMATCH, f"key {raw.key!r:.60} is not the transaction_id")
    if not TIME_MS_MIN <= click.received_at_ms <= min(TIME_MS_MAX, now_ms + RECEIVED_AHEAD_MS_MAX):
        raise MalformedRaw(Reason.TIME_INVALID, f"received_at {click.received_at_ms}")
    if not -1 <= click.catalog_version <= CATALOG_VERSION_MAX:
        raise MalformedRaw(Reason.FIELD_INVALID, f"catalog_version {click.catalog_version}")
    for name in ("tenant", "key_id", "node"):
        value = getattr(click, name)
        if len(value) * 4 > ID_BYTES_MAX and len(value.encode()) > ID_BYTES_MAX:
            raise MalformedRaw(Reason.FIELD_INVALID, f"{name} is longer than {ID_BYTES_MAX} bytes")
    for name in ("short-url", "user-agent", "ip-address"):
        if not isinstance(click.click.get(name), str | None):
            raise MalformedRaw(Reason.FIELD_INVALID, f"{name} is not a string")


def _check_catalog(click: RawClick, directory: Directory, catalog_end: int | None) -> None:
    reached = directory.version
    if click.catalog_version <= reached:
        return
    if catalog_end is None or click.catalog_version <= catalog_end:
        raise CatalogBehind(click.catalog_version, reached)
    raise MalformedRaw(Reason.CATALOG_VERSION_AHEAD, f"{click.catalog_version}, the catalog ends at {catalog_end}")


class Context(NamedTuple):
    """What the steps read."""

    click: RawClick
    tenant: Tenant | None
    tools: Tools
    now_ms: int


def _run_steps(raw: RawRecord, click: RawClick, tools: Tools, now_ms: int) -> Row:
    row = dict(EMPTY)
    put_position(row, raw, now_ms)
    context = Context(click, tools.directory.tenant(click.tenant), tools, now_ms)
    for step in STEPS:
        step(row, context)
    if row["reason"]:
        row["status"] = Status.REJECTED
        row["suspect"] = False
        row["raw"] = keep_raw(raw.value or b"", privacy_of(context.tenant), tools.raw_bytes_max)
    return row


def put_origin(row: Row, context: Context) -> None:
    """Who reported the click and which way it came; `accepted` until a later step finds a reason."""
    click = context.click
    row["transaction_id"] = click.transaction_id
    row["status"] = Status.ACCEPTED
    row["tenant"] = click.tenant
    row["key_id"] = click.key_id
    row["source"] = click.source
    row["node"] = click.node
    row["catalog_version"] = click.catalog_version
    row["replay_of"] = replay_of_text(click.replay_of)
    row["agent_rules"] = context.tools.agents.agent_rules
    row["bot_rules"] = context.tools.agents.bot_rules
    row["geo_rules"] = context.tools.addresses.version
    if click.suspect:
        row["suspect"] = True
        row["click_digest"] = _digest(click.click)


def put_times(row: Row, context: Context) -> None:
    """When it was received, clicked (contract.md, Retention) and may be deleted."""
    click, retention_ms = context.click, retention_ms_of(context.tenant)
    received_at_ms = click.received_at_ms
    row["received_at"] = row["clicked_at"] = received_at_ms
    row["clicked_at_ignored"] = click.clicked_at_ignored
    given = click.click.get("clicked-at")
    if given not in (None, "") and not click.clicked_at_ignored:
        given_ms = clicked_at_ms(given)
        least_ms = max(received_at_ms - CLICKED_BEHIND_MS_MAX, 0)
        if given_ms is not None and least_ms <= given_ms <= received_at_ms + CLICKED_AHEAD_MS_MAX:
            row["clicked_at"] = given_ms
        else:
            row["clicked_at_ignored"] = True
    row["expires_at"] = expires_at_ms(received_at_ms, retention_ms, context.now_ms)


def put_link(row: Row, context: Context) -> None:
    """What was clicked: the link that travels in the record. Another tenant's link is none."""
    click, link = context.click, context.click.link
    row["short_url"] = bounded(click.click.get("short-url") or "", URL_BYTES_MAX)
    row["link"] = text_of(link.get("link"), URL_BYTES_MAX)
    row["promotion_id"] = text_of(link.get("promotion_id"), ID_BYTES_MAX)
    row["link_name"] = text_of(link.get("link_name"), NAME_BYTES_MAX)
    row["recipient"] = text_of(link.get("recipient"), NAME_BYTES_MAX)
    row["long_url"] = text_of(link.get("long_url"), LONG_URL_BYTES_MAX)
    row["sent_at"] = time_ms_of(link.get("sent_at"))
    if context.tenant is None:
        row["reason"] = Reason.TENANT_UNKNOWN
    elif not row["link"] or link.get("tenant", click.tenant) != click.tenant:
        row["reason"] = Reason.UNKNOWN_LINK
    elif not row["promotion_id"]:
        row["reason"] = Reason.PROMOTION_MISSING


def put_promotion(row: Row, context: Context) -> None:
    """The campaign and deployment of the promotion, from the catalog. A promotion without a record has none."""
    if not row["promotion_id"]:
        return
    promotion = context.tools.directory.promotion(row["tenant"], row["promotion_id"])
    row["campaign_id"] = text_of(promotion.campaign_id, ID_BYTES_MAX)
    row["deployment_id"] = text_of(promotion.deployment_id, ID_BYTES_MAX)
    if row["sent_at"] is None:
        row["sent_at"] = time_ms_of(promotion.sent_at_ms)


def put_agent(row: Row, context: Context) -> None:
    """Browser, system, device and bot of the user agent; the caller's own header only where the key asked for it."""
    given = given_agent(context.click.click.get("user-agent")) or given_agent(context.click.caller_user_agent)
    if not given:
        return
    agent = context.tools.agents.parse(given)
    row["user_agent"] = given
    row["browser"] = agent.browser
    row["browser_version"] = agent.browser_version
    row["os"] = agent.os
    row["os_version"] = agent.os_version
    row["device"] = agent.device
    row["device_brand"] = agent.device_brand
    row["device_type"] = agent.device_type
    row["resolution"] = agent.resolution
    row["is_bot"] = agent.is_bot
    row["bot_reason"] = agent.bot_reason


def put_address(row: Row, context: Context) -> None:
    """The address after the tenant's privacy mode, its kind and its place."""
    given = context.click.click.get("ip-address")
    if not given:
        return
    located = context.tools.addresses.locate(given, privacy_of(context.tenant))
    row["ip"] = located.ip
    row["ip_kind"] = located.ip_kind
    row["country"], row["region"], row["city"], row["asn"] = located.place


def judge_reprocessed(row: Row, context: Context) -> None:
    """Reprocessed clicks pass the checks that the API makes on others: disabled, expired, retention."""
    click, link = context.click, context.click.link
    if click.source is not Source.REPROCESS or row["reason"]:
        return
    expires_at_ms = time_ms_of(link.get("expires_at"))
    sent_at_ms = row["sent_at"] or time_ms_of(link.get("registered_at"))
    if link.get("disabled") is True:
        row["reason"] = Reason.LINK_DISABLED
    elif expires_at_ms is not None and row["clicked_at"] >= expires_at_ms:
        row["reason"] = Reason.LINK_EXPIRED
    elif sent_at_ms is not None and row["clicked_at"] > sent_at_ms + retention_ms_of(context.tenant):
        row["reason"] = Reason.RETENTION_PASSED


def _digest(click: Mapping[str, Any]) -> str:
    """Tells a repeated click from another one under the same key; unknown fields are ignored, as everywhere."""
    known = [click.get(name) or None for name in ("short-url", "user-agent", "ip-address", "clicked-at")]
    return hashlib.sha256(orjson.dumps(known, default=str)).hexdigest()[:32]


STEPS: Final[tuple[Callable[[Row, Context], None], ...]] = (
    put_origin,
    put_times,
    put_link,
    put_promotion,
    put_agent,
    put_address,
    judge_reprocessed,
)
