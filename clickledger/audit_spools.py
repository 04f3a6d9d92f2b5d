"""What the audit says about spools: clicks that API machines keep on disk are answered 200 and not in Kafka yet.

Pure. A spool's record is written by the process that holds it, every few seconds and at once when its first click comes
or its last one goes; an orderly stop with nothing left deletes it. So a record that has become old means a machine that
was killed, is cut off from Kafka, or is gone: nobody can say what lies on its disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple


class SpoolProblem(StrEnum):
    """What is wrong with a spool; each makes the audit fail."""

    HOLDS_CLICKS = "spool holds clicks"
    """clicks that were answered 200 and are not in Kafka yet"""
    SILENT = "spool not heard of"
    """nobody knows what it holds"""
    SET_ASIDE = "spool set aside"
    """damaged bytes, or clicks that Kafka does not take: clicks that were answered 200 may be lost"""


class SpoolFinding(NamedTuple):
    """One problem of one spool."""

    spool: str
    """its id"""
    problem: SpoolProblem
    size: int
    """clicks, or pieces set aside"""
    detail: str


def judge_spools(records: Iterable[Mapping[str, Any]], now_ms: int, silence_ms_max: int) -> tuple[SpoolFinding, ...]:
    """Findings about every spool, in the order of the records."""
    return tuple(finding for record in records for finding in _judge(record, now_ms, silence_ms_max))


def is_settled(record: Mapping[str, Any], before: Mapping[str, int]) -> bool:
    """Whether a spool holds no click, by a sign of life that came after the one in `before` (id to `heard_at`).

    Only a later one counts: the last one before Kafka came back says nothing about the time between. Another time is a
    later one, an earlier time too: records stand in order, and the clock that wrote them may have been set back.
    """
    return not record.get("clicks") and record["heard_at"] != before.get(spool_id(record))


def spool_id(record: Mapping[str, Any]) -> str:
    """Its id in the catalog; records of older versions do not say theirs."""
    return str(record.get("id") or f"{record['node']}/{record['slot']}")


def _place(record: Mapping[str, Any]) -> str:
    """Its machine, and where on it the folder lies."""
    return f"{record['node']} ({record['folder']})" if "folder" in record else str(record["node"])


def _judge(record: Mapping[str, Any], now_ms: int, silence_ms_max: int) -> Iterable[SpoolFinding]:
    spool = spool_id(record)
    clicks, set_aside = int(record.get("clicks", 0)), int(record.get("set_aside", 0))
    if clicks:
        oldest_at = record.get("oldest_at")
        age = "" if oldest_at is None else f", the oldest for {max(0, now_ms - oldest_at) // 1000:,} s"
        detail = f"{clicks:,} clicks wait on the disk of {_place(record)}{age}; they are sent when Kafka takes them"
        yield SpoolFinding(spool, SpoolProblem.HOLDS_CLICKS, clicks, detail)
    silent_ms = now_ms - int(record["heard_at"])
    if silent_ms > silence_ms_max:
        detail = (
            f"no sign of life for {silent_ms // 1000:,} s: start the API on {_place(record)} again, or, when its disk is "
            f'gone for good: clickledger spool forget {spool} --reason "…"'
        )
        yield SpoolFinding(spool, SpoolProblem.SILENT, 1, detail)
    if set_aside:
        detail = f"{set_aside:,} pieces lie in the folder set-aside of this spool on {_place(record)}: clickledger spool verify"
        yield SpoolFinding(spool, SpoolProblem.SET_ASIDE, set_aside, detail)
