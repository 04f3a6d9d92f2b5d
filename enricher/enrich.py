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

from collections.abc import Callable
from typing import Final

from enricher.body import click_digest, judge_clicked_at, wrong_text
from enricher.directory import UNKNOWN_PROMOTION, Directory, Tenant
from enricher.malformed import malformed_row
from enricher.metrics import SERVICE
from enricher.ordinary import OrdinaryRows
from enricher.raw_bytes import keep_raw
from enricher.row import (
    CATALOG_VERSION_MAX,
    NO_REASON,
    RECEIVED_AHEAD_MS_MAX,
    TIME_MS_MIN,
    UUID,
    EnrichedRecord,
    RawRecord,
    Row,
    Tools,
    encode_row,
    expires_at_ms,
    origin_columns,
    privacy_of,
    replay_of_text,
    retention_ms_of,
    rules_columns,
)
from enricher.texts import (
    ID_BYTES_MAX,
    LONG_URL_BYTES_MAX,
    NAME_BYTES_MAX,
    TIME_MS_MAX,
    URL_BYTES_MAX,
    text_of,
    time_ms_of,
)
from shared.errors import OperatorError, TransientError
from shared.events import MalformedRaw, RawClick, RawOrigin, Reason, Source, Status, decode_raw
from shared.metrics import errors

_REPROCESS: Final = Source.REPROCESS
"""An enumeration's members take ten times as long to get at as a name of the module."""


class CatalogBehind(TransientError):
    """Our copy of the catalog has not reached the version that a click was stamped with."""

    def __init__(self, wanted: int, reached: int) -> None:
        super().__init__(f"catalog version {wanted} not reached, at {reached}")
        self.wanted = wanted


class Moment:
    """Enriches records of one partition while clock and catalog stand still: not to be kept over an `await`."""

    __slots__ = ("_catalog_end", "_now_ms", "_ordinary", "_partition", "_stream", "_tools")

    def __init__(self, stream: str, partition: int, tools: Tools, now_ms: int, catalog_end: int | None = None) -> None:
        """`now_ms` becomes `enriched_at`.

        `catalog_end`: the last version in the catalog topic, where it was proved after the record was read; a stamp
        beyond it is malformed.
        """
        self._stream = stream
        self._partition = partition
        self._tools = tools
        self._now_ms = now_ms
        self._catalog_end = catalog_end
        self._ordinary = OrdinaryRows(stream, partition, tools, now_ms)

    def enrich(self, offset: int, key: bytes | None, value: bytes | None, timestamp_ms: int) -> EnrichedRecord:
        """The enriched record of a raw record.

        Raises CatalogBehind when our copy has not reached its stamp (wait, or prove the end, and ask a new moment) and
        TransientError, OperatorError, OSError or MemoryError when the environment fails.
        """
        try:
            ordinary = self._ordinary.row(offset, key, value, timestamp_ms)
        except (TransientError, OperatorError, OSError, MemoryError):
            raise
        except Exception:  # noqa: BLE001  # a bug in the short way must cost no row: the steps make it, and it is counted
            errors.labels(SERVICE, "bug").inc()
            ordinary = None
        if ordinary is not None:
            return ordinary
        raw = RawRecord(self._stream, self._partition, offset, key, value, timestamp_ms)
        return enrich_in_steps(raw, self._tools, self._now_ms, self._catalog_end)


def enrich(raw: RawRecord, tools: Tools, now_ms: int, catalog_end: int | None = None) -> EnrichedRecord:
    """One record at a moment of its own: see `Moment`."""
    moment = Moment(raw.stream, raw.partition, tools, now_ms, catalog_end)
    return moment.enrich(raw.offset, raw.key, raw.value, raw.timestamp_ms)


def enrich_in_steps(raw: RawRecord, tools: Tools, now_ms: int, catalog_end: int | None = None) -> EnrichedRecord:
    """The same for whatever record: this is the rule, `OrdinaryRows` only a shorter way to its rows."""
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
    origin = click.origin
    if len(origin.tenant) + len(origin.key_id) + len(origin.node) > ID_BYTES_MAX // 4:
        _check_ids(origin)
    if name := wrong_text(click.click):
        raise MalformedRaw(Reason.FIELD_INVALID, f"{name} is not a string")


def _check_ids(origin: RawOrigin) -> None:
    """Whether each fits its column; only asked when all of them together, of four bytes a character, might not."""
    for name, value in (("tenant", origin.tenant), ("key_id", origin.key_id), ("node", origin.node)):
        if len(value.encode()) > ID_BYTES_MAX:
            raise MalformedRaw(Reason.FIELD_INVALID, f"{name} is longer than {ID_BYTES_MAX} bytes")


def _check_catalog(click: RawClick, directory: Directory, catalog_end: int | None) -> None:
    reached = directory.version
    if click.catalog_version <= reached:
        return
    if catalog_end is None or click.catalog_version <= catalog_end:
        raise CatalogBehind(click.catalog_version, reached)
    raise MalformedRaw(Reason.CATALOG_VERSION_AHEAD, f"{click.catalog_version}, the catalog ends at {catalog_end}")


def _run_steps(raw: RawRecord, click: RawClick, tools: Tools, now_ms: int) -> Row:
    row = Row(now_ms)
    tenant = tools.directory.tenant(click.origin.tenant)
    for step in STEPS:
        step(row, click, tenant, tools)
    if row.reason is not NO_REASON:
        row.status = Status.REJECTED
        row.suspect = False
        row.put_end(raw=keep_raw(raw.value or b"", privacy_of(tenant), tools.raw_bytes_max))
    return row


def put_origin(row: Row, click: RawClick, _tenant: Tenant | None, tools: Tools) -> None:
    """Who reported the click and which way it came; `accepted` until a later step finds a reason."""
    origin = click.origin
    row.transaction_id = click.transaction_id
    row.origin = origin_columns(origin.tenant, origin.key_id, origin.source, origin.node)
    row.rules = rules_columns(tools.agents.agent_rules, tools.agents.bot_rules, tools.addresses.version)
    if origin.replay_of is not None:
        row.replay_of = replay_of_text(origin.replay_of)
    if origin.suspect:
        row.suspect = True
        row.put_end(click_digest=click_digest(click.click))


def put_times(row: Row, click: RawClick, tenant: Tenant | None, _tools: Tools) -> None:
    """When it was received, clicked (contract.md, Retention) and may be deleted."""
    received_at_ms, is_ignored = click.received_at_ms, click.origin.clicked_at_ignored
    row.received_at = received_at_ms
    row.clicked_at, row.clicked_at_ignored = judge_clicked_at(
        click.click.get("clicked-at"), received_at_ms, is_ignored=is_ignored
    )
    row.expires_at = expires_at_ms(received_at_ms, retention_ms_of(tenant), row.enriched_at)


def put_link(row: Row, click: RawClick, tenant: Tenant | None, tools: Tools) -> None:
    """What was clicked: the link that travels in the record, and its promotion's campaign from the catalog.

    Another tenant's link is none. A promotion without a record has no campaign.
    """
    link, owner = click.link, click.origin.tenant
    key, promotion_id = text_of(link.get("link"), URL_BYTES_MAX), text_of(link.get("promotion_id"), ID_BYTES_MAX)
    promotion = tools.directory.promotion(owner, promotion_id) if promotion_id else UNKNOWN_PROMOTION
    sent_at_ms = time_ms_of(link.get("sent_at"))
    row.link = {
        "catalog_version": click.catalog_version,
        "short_url": text_of(click.click.get("short-url"), URL_BYTES_MAX),
        "link": key,
        "promotion_id": promotion_id,
        "campaign_id": promotion.campaign_id,
        "deployment_id": promotion.deployment_id,
        "link_name": text_of(link.get("link_name"), NAME_BYTES_MAX),
        "recipient": text_of(link.get("recipient"), NAME_BYTES_MAX),
        "long_url": text_of(link.get("long_url"), LONG_URL_BYTES_MAX),
        "sent_at": promotion.sent_at_ms if sent_at_ms is None else sent_at_ms,
    }
    if tenant is None:
        row.reason = Reason.TENANT_UNKNOWN
    elif not key or link.get("tenant", owner) != owner:
        row.reason = Reason.UNKNOWN_LINK
    elif not promotion_id:
        row.reason = Reason.PROMOTION_MISSING


def put_agent(row: Row, click: RawClick, _tenant: Tenant | None, tools: Tools) -> None:
    """Browser, system, device and bot of the user agent; the caller's own header only where the key asked for it."""
    agents = tools.agents
    row.agent = (
        agents.columns(click.click.get("user-agent")) or agents.columns(click.origin.caller_user_agent) or row.agent
    )


def put_address(row: Row, click: RawClick, tenant: Tenant | None, tools: Tools) -> None:
    """The address after the tenant's privacy mode, its kind and its place."""
    given = click.click.get("ip-address")
    if given:
        row.address = tools.addresses.columns(given, privacy_of(tenant))


def judge_reprocessed(row: Row, click: RawClick, tenant: Tenant | None, _tools: Tools) -> None:
    """Reprocessed clicks pass the checks that the API makes on others: disabled, expired, retention."""
    link = click.link
    if click.origin.source is not _REPROCESS or row.reason is not NO_REASON:
        return
    expires_at_ms = time_ms_of(link.get("expires_at"))
    sent_at_ms = row.link["sent_at"] or time_ms_of(link.get("registered_at"))
    if link.get("disabled") is True:
        row.reason = Reason.LINK_DISABLED
    elif expires_at_ms is not None and row.clicked_at >= expires_at_ms:
        row.reason = Reason.LINK_EXPIRED
    elif sent_at_ms is not None and row.clicked_at > sent_at_ms + retention_ms_of(tenant):
        row.reason = Reason.RETENTION_PASSED


Step = Callable[[Row, RawClick, Tenant | None, Tools], None]
"""Sets columns of the row; reads the click, its tenant (None: unknown) and the tools."""

STEPS: Final[tuple[Step, ...]] = (
    put_origin,
    put_times,
    put_link,
    put_agent,
    put_address,
    judge_reprocessed,
)
