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

from enricher.directory import Directory, Tenant
from enricher.malformed import malformed_row
from enricher.raw_bytes import keep_raw
from enricher.row import (
    CATALOG_VERSION_MAX,
    RECEIVED_AHEAD_MS_MAX,
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
    rules_columns,
)
from enricher.texts import ID_BYTES_MAX, TIME_MS_MAX, text_of, time_ms_of
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

ACCEPTED: Final = Status.ACCEPTED
_REPROCESS: Final = Source.REPROCESS
"""An enumeration's members take ten times as long to get at as a name of the module."""


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
    received_at_ms = click.received_at_ms
    if not TIME_MS_MIN <= received_at_ms <= TIME_MS_MAX or received_at_ms > now_ms + RECEIVED_AHEAD_MS_MAX:
        raise MalformedRaw(Reason.TIME_INVALID, f"received_at {received_at_ms}")
    if not -1 <= click.catalog_version <= CATALOG_VERSION_MAX:
        raise MalformedRaw(Reason.FIELD_INVALID, f"catalog_version {click.catalog_version}")
    if len(click.tenant) + len(click.key_id) + len(click.node) > ID_BYTES_MAX // 4:
        _check_ids(click)
    body = click.click
    for name in ("short-url", "user-agent", "ip-address"):
        if type(body.get(name, "")) not in _TEXT_OR_NULL:
            raise MalformedRaw(Reason.FIELD_INVALID, f"{name} is not a string")


_TEXT_OR_NULL: Final = (str, type(None))


def _check_ids(click: RawClick) -> None:
    """Whether each fits its column; only asked when all of them together, of four bytes a character, might not."""
    for name, value in (("tenant", click.tenant), ("key_id", click.key_id), ("node", click.node)):
        if len(value.encode()) > ID_BYTES_MAX:
            raise MalformedRaw(Reason.FIELD_INVALID, f"{name} is longer than {ID_BYTES_MAX} bytes")


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
    row = Row()
    put_position(row, raw, now_ms)
    context = Context(click, tools.directory.tenant(click.tenant), tools, now_ms)
    for step in STEPS:
        step(row, context)
    if row.click["reason"]:
        row.click["status"] = Status.REJECTED
        row.click["suspect"] = False
        row.put_end(raw=keep_raw(raw.value or b"", privacy_of(context.tenant), tools.raw_bytes_max))
    return row


def put_origin(row: Row, context: Context) -> None:
    """Who reported the click and which way it came; `accepted` until a later step finds a reason."""
    click, columns = context.click, row.click
    columns["transaction_id"] = click.transaction_id
    columns["status"] = ACCEPTED
    columns["tenant"] = click.tenant
    columns["key_id"] = click.key_id
    columns["source"] = click.source
    columns["node"] = click.node
    columns["catalog_version"] = click.catalog_version
    columns["replay_of"] = replay_of_text(click.replay_of)
    agents = context.tools.agents
    row.rules = rules_columns(agents.agent_rules, agents.bot_rules, context.tools.addresses.version)
    if click.suspect:
        columns["suspect"] = True
        row.put_end(click_digest=_digest(click.click))


def put_times(row: Row, context: Context) -> None:
    """When it was received, clicked (contract.md, Retention) and may be deleted."""
    click, columns, retention_ms = context.click, row.click, retention_ms_of(context.tenant)
    received_at_ms = click.received_at_ms
    columns["received_at"] = columns["clicked_at"] = received_at_ms
    columns["clicked_at_ignored"] = click.clicked_at_ignored
    given = click.click.get("clicked-at")
    if given is not None and given != "" and not click.clicked_at_ignored:
        given_ms = clicked_at_ms(given)
        least_ms = max(received_at_ms - CLICKED_BEHIND_MS_MAX, 0)
        if given_ms is not None and least_ms <= given_ms <= received_at_ms + CLICKED_AHEAD_MS_MAX:
            columns["clicked_at"] = given_ms
        else:
            columns["clicked_at_ignored"] = True
    columns["expires_at"] = expires_at_ms(received_at_ms, retention_ms, context.now_ms)


def put_link(row: Row, context: Context) -> None:
    """What was clicked: the link that travels in the record. Another tenant's link is none."""
    click, link, columns = context.click, context.click.link, row.click
    columns["short_url"] = text_of(click.click.get("short-url"), URL_BYTES_MAX)
    columns["link"] = text_of(link.get("link"), URL_BYTES_MAX)
    columns["promotion_id"] = text_of(link.get("promotion_id"), ID_BYTES_MAX)
    columns["link_name"] = text_of(link.get("link_name"), NAME_BYTES_MAX)
    columns["recipient"] = text_of(link.get("recipient"), NAME_BYTES_MAX)
    columns["long_url"] = text_of(link.get("long_url"), LONG_URL_BYTES_MAX)
    columns["sent_at"] = time_ms_of(link.get("sent_at"))
    if context.tenant is None:
        columns["reason"] = Reason.TENANT_UNKNOWN
    elif not columns["link"] or link.get("tenant", click.tenant) != click.tenant:
        columns["reason"] = Reason.UNKNOWN_LINK
    elif not columns["promotion_id"]:
        columns["reason"] = Reason.PROMOTION_MISSING


def put_promotion(row: Row, context: Context) -> None:
    """The campaign and deployment of the promotion, from the catalog. A promotion without a record has none."""
    columns = row.click
    if not columns["promotion_id"]:
        return
    promotion = context.tools.directory.promotion(columns["tenant"], columns["promotion_id"])
    columns["campaign_id"] = promotion.campaign_id
    columns["deployment_id"] = promotion.deployment_id
    if columns["sent_at"] is None:
        columns["sent_at"] = promotion.sent_at_ms


def put_agent(row: Row, context: Context) -> None:
    """Browser, system, device and bot of the user agent; the caller's own header only where the key asked for it."""
    click, agents = context.click, context.tools.agents
    row.agent = agents.columns(click.click.get("user-agent")) or agents.columns(click.caller_user_agent) or row.agent


def put_address(row: Row, context: Context) -> None:
    """The address after the tenant's privacy mode, its kind and its place."""
    given = context.click.click.get("ip-address")
    if given:
        row.address = context.tools.addresses.columns(given, privacy_of(context.tenant))


def judge_reprocessed(row: Row, context: Context) -> None:
    """Reprocessed clicks pass the checks that the API makes on others: disabled, expired, retention."""
    click, link, columns = context.click, context.click.link, row.click
    if click.source is not _REPROCESS or columns["reason"]:
        return
    expires_at_ms = time_ms_of(link.get("expires_at"))
    sent_at_ms = columns["sent_at"] or time_ms_of(link.get("registered_at"))
    if link.get("disabled") is True:
        columns["reason"] = Reason.LINK_DISABLED
    elif expires_at_ms is not None and columns["clicked_at"] >= expires_at_ms:
        columns["reason"] = Reason.LINK_EXPIRED
    elif sent_at_ms is not None and columns["clicked_at"] > sent_at_ms + retention_ms_of(context.tenant):
        columns["reason"] = Reason.RETENTION_PASSED


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
