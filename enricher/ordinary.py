"""The short way: the row of a click as our API writes it, joined of the raw record's own bytes.

Rule: `OrdinaryRows.row` gives the row that the steps of `enrich` give, byte for byte, or it gives up, and then the steps
tell. It judges nothing: whatever would be refused, rejected or corrected is left to them.

Why bytes may be copied: `_ORDINARY` takes a record from its first byte to its link's end, string by string. In them
stands no quote, no backslash and no control character, and the whole is UTF-8: each is what encoding its text would write
again. Their bounds in bytes are the columns', and so are the numbers'. Only the body follows, which callers write as they
like; it is decoded as the last member of an object, where no nesting is deeper and no name hidden.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson

from enricher.addresses import NO_ADDRESS_COLUMNS
from enricher.agents import NO_AGENT_COLUMNS
from enricher.body import click_digest, judge_clicked_at, wrong_text
from enricher.row import (
    ACCEPTED,
    END_OF_MOST,
    NO_REASON,
    ORIGINS_MAX,
    RECEIVED_AHEAD_MS_MAX,
    UUID,
    EnrichedRecord,
    Tools,
    expires_at_ms,
    headers_of,
    kafka_time_ms,
    origin_columns,
    position_columns,
    rules_columns,
)
from enricher.texts import ID_BYTES_MAX, LONG_URL_BYTES_MAX, NAME_BYTES_MAX, URL_BYTES_MAX, following, text_of
from shared.events import Source


def _string(bytes_max: int, bytes_min: int = 0) -> bytes:
    return rb'"[ !#-\[\]-\xff]{%d,%d}+"' % (bytes_min, bytes_max)


_ID: Final = _string(ID_BYTES_MAX)
_NAME: Final = _string(NAME_BYTES_MAX)
_TIME: Final = rb"[1-3][0-9]{12}"
"""Milliseconds: of 2001 to 2096, so within the columns' times."""
_NUMBER: Final = rb"(?:0|[1-9][0-9]{0,17})"

_ORDINARY: Final = re.compile(
    rb"".join(
        (
            rb'\{"v":1,"transaction_id":"(%b)","received_at":(%b),' % (UUID.pattern.encode(), _TIME),
            rb'("tenant":(%b),"key_id":%b,"node":%b,"source":"[a-z]+","suspect":(?:false|true),' % ((_ID,) * 3),
            rb'"replay_of":null,"clicked_at_ignored":(?:false|true)),',
            rb'(?:"caller_user_agent":"([ !#-\[\]-\xff]*+)",)?("catalog_version":(%b),)' % _NUMBER,
            rb'"link":\{"v":1,"tenant":(%b),' % _ID,
            rb'("link":%b,"promotion_id":"([ !#-\[\]-\xff]{1,%d}+)")' % (_string(URL_BYTES_MAX, 1), ID_BYTES_MAX),
            rb'(,"recipient":%b)(,"link_name":%b)' % (_NAME, _NAME),
            rb'(,"long_url":%b,"sent_at":)(?:null|(%b)),' % (_string(LONG_URL_BYTES_MAX), _TIME),
            rb'"expires_at":(?:null|%b),"disabled":(?:false|true),' % _NUMBER,
            rb'"match":"(?:exact|prefix)","registered_at":%b\},' % _NUMBER,
        )
    )
)
"""A raw record as `shared.events.join_raw` and `shared.links.read_link` make it, up to its body."""
_match: Final = _ORDINARY.match

_ROW: Final = (
    b'%b%d,"transaction_id":"%b","status":"accepted","reason":"","suspect":%b,"replay_of":"","received_at":%b,'
    b'"clicked_at":%d,"clicked_at_ignored":%b,"enriched_at":%d,"expires_at":%d%b,%b"short_url":%b,%b%b%b%b%b%b%b%b%b%b}'
)
_SOURCES: Final = frozenset(Source) - {Source.REPROCESS}


class _Sender(NamedTuple):
    """What the rows of one origin share."""

    tenant: str
    columns: bytes
    """From `tenant` to `node`: see `following`."""
    suspect: bytes
    """As JSON."""
    is_suspect: bool
    is_ignored: bool
    """The API ignored the `clicked-at`."""


@lru_cache(maxsize=ORIGINS_MAX)
def _sender(members: bytes) -> _Sender | None:
    """The sender of the members from `tenant` to `clicked_at_ignored`; None when its clicks are not ordinary."""
    origin = orjson.loads(b"{%b}" % members)
    if origin["source"] not in _SOURCES:
        return None
    columns = origin_columns(origin["tenant"], origin["key_id"], origin["source"], origin["node"])
    is_suspect = origin["suspect"]
    return _Sender(origin["tenant"], columns, orjson.dumps(is_suspect), is_suspect, origin["clicked_at_ignored"])


class OrdinaryRows:
    """Rows of ordinary clicks of one partition at one moment: clock, catalog version and rules are looked up once.

    Not to be kept over an `await`: the catalog may move there.
    """

    __slots__ = (
        "_addresses",
        "_agents",
        "_bytes_max",
        "_catalog_version",
        "_directory",
        "_now_ms",
        "_position",
        "_received_ms_max",
        "_rules",
    )

    def __init__(self, stream: str, partition: int, tools: Tools, now_ms: int) -> None:
        self._agents, self._addresses, self._directory, self._bytes_max = tools
        self._position = position_columns(stream, partition)
        self._rules = rules_columns(tools.agents.agent_rules, tools.agents.bot_rules, tools.addresses.version)
        self._catalog_version = tools.directory.version
        self._now_ms = now_ms
        self._received_ms_max = now_ms + RECEIVED_AHEAD_MS_MAX

    def row(self, offset: int, key: bytes | None, value: bytes | None, timestamp_ms: int) -> EnrichedRecord | None:
        """The enriched record of an ordinary click, None for any other record.

        Raises as `enrich` does for the environment.
        """
        if value is None or len(value) > self._bytes_max or not (value.isascii() or _is_utf8(value)):
            return None
        found = _match(value)
        if found is None:
            return None
        (
            transaction_id, received_at, origin, owner, caller, version_column, version, link_owner,
            link, promotion_id, recipient, link_name, long_url, sent_at,
        ) = found.groups()  # fmt: skip
        sender, received_at_ms, click = _sender(origin), int(received_at), _body(value[found.end() :])
        if (
            sender is None
            or click is None
            or transaction_id != key
            or link_owner != owner
            or received_at_ms > self._received_ms_max
            or int(version) > self._catalog_version
            or (tenant := self._directory.tenant(sender.tenant)) is None
        ):
            return None
        given, now_ms = click.get, self._now_ms
        short_url, agent, address = given("short-url"), given("user-agent"), given("ip-address")
        if not type(short_url) is type(agent) is type(address) is str and wrong_text(click):
            return None
        clicked_at_ms, is_ignored = judge_clicked_at(given("clicked-at"), received_at_ms, is_ignored=sender.is_ignored)
        promotion = self._directory.promotion(sender.tenant, promotion_id.decode())
        row = _ROW % (
            self._position,
            offset,
            transaction_id,
            sender.suspect,
            received_at,
            clicked_at_ms,
            b"true" if is_ignored else b"false",
            now_ms,
            expires_at_ms(received_at_ms, tenant.retention_ms, now_ms),
            sender.columns,
            version_column,
            orjson.dumps(text_of(short_url, URL_BYTES_MAX)),
            link,
            promotion.columns,
            link_name,
            recipient,
            long_url,
            sent_at or promotion.sent_at,
            self._agents.columns(agent) or (caller and self._agents.columns(caller.decode())) or NO_AGENT_COLUMNS,
            self._addresses.columns(address, tenant.privacy) if address else NO_ADDRESS_COLUMNS,
            self._rules,
            following({"click_digest": click_digest(click), "raw": ""}) if sender.is_suspect else END_OF_MOST,
        )
        headers = headers_of(offset, is_suspect=sender.is_suspect)
        made_ms = kafka_time_ms(received_at_ms, timestamp_ms, now_ms)
        # A named tuple without its constructor, which is a function in Python.
        return tuple.__new__(EnrichedRecord, (transaction_id, row, headers, made_ms, ACCEPTED, NO_REASON))


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _body(rest: bytes) -> dict[str, Any] | None:
    """The click in what stands behind the link; None when that is not exactly one object."""
    try:
        members = orjson.loads(b"{" + rest)
    except orjson.JSONDecodeError:
        return None
    click = members.get("click")
    return click if len(members) == 1 and type(click) is dict else None
