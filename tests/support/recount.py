"""The figures of the reports, counted row by row in plain Python: what every number means, said a second time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from reporting.dimensions import OWNERS, By
from reporting.figures import Question


class Promotion(NamedTuple):
    """What is known of a promotion now."""

    name: str
    campaign_id: str
    deployment_id: str
    sent: int | None
    delivered: int | None
    is_deleted: bool = False


def recount(
    rows: Sequence[Mapping[str, Any]], promotions: Mapping[str, Promotion], question: Question
) -> list[dict[str, Any]]:
    """The report's rows in any order."""
    period, groups = question.period, defaultdict(list)
    for row in rows:
        moment = datetime.fromtimestamp(row["clicked_at"] / 1000, UTC)
        is_asked = all((row[column] or "Others") == value for column, value in question.filters.items())
        inside = period.begin.astimezone(UTC) <= moment < period.end.astimezone(UTC)
        if inside and is_asked and row["tenant"] == question.tenant and row["status"] in {"accepted", "duplicate"}:
            groups[tuple(value_of(by, row, period.zone) for by in question.by)].append(row)
    if not question.by:
        groups.setdefault((), [])
    elif question.has_empty:
        for value in _known(promotions, question):
            groups.setdefault((value,), [])
    found = [_counted(key, members, promotions, question) for key, members in groups.items()]
    most = sorted(found, key=lambda row: (-row["clicks"], -row["clicks_all"], *(_order(by, row) for by in question.by)))
    return most[: question.limit]


def _order(by: By, row: Mapping[str, Any]) -> Any:
    value = row[column_of(by)]
    return datetime.fromisoformat(value) if by is By.HOUR else value  # of the hour that comes twice, the first is first


def column_of(by: By) -> str:
    """Where a row has the value of a dimension."""
    return f"{by}_id" if by in OWNERS else by.value


def _known(promotions: Mapping[str, Promotion], question: Question) -> Iterator[str]:
    """The values of a dimension that are there without a click: of registered promotions, and of all the time."""
    (by,), period = question.by, question.period
    if by in OWNERS:
        for promotion_id, promotion in promotions.items():
            named = {"promotion_id": promotion_id} | promotion._asdict()
            is_asked = all(
                (named[column] or "Others") == v for column, v in question.filters.items() if column in named
            )
            if is_asked and not promotion.is_deleted:
                yield named[f"{by}_id"] or "Others"
        return
    moment = period.begin.astimezone(UTC)
    while moment < period.end.astimezone(UTC):
        yield value_of(by, {"clicked_at": moment.timestamp() * 1000}, period.zone)
        moment += timedelta(minutes=5)
    yield value_of(by, {"clicked_at": period.end.timestamp() * 1000 - 1}, period.zone)


def value_of(by: By, row: Mapping[str, Any], zone: ZoneInfo) -> str:
    """What a report by one dimension shows of a row."""
    local = datetime.fromtimestamp(row["clicked_at"] / 1000, UTC).astimezone(zone)
    match by:
        case By.HOUR:
            return f"{local:%Y-%m-%dT%H}:00{local.isoformat()[-6:]}"
        case By.DAY:
            return local.date().isoformat()
        case By.WEEK:
            return f"{local.isocalendar().year}-W{local.isocalendar().week:02}"
    return row[column_of(by)] or "Others"


def _counted(
    key: tuple[str, ...],
    rows: Sequence[Mapping[str, Any]],
    promotions: Mapping[str, Promotion],
    question: Question,
) -> dict[str, Any]:
    named = dict(zip(question.by, key, strict=True))
    accepted = [row for row in rows if row["status"] == "accepted"]
    people = [row for row in accepted if not row["is_bot"]]
    unique = len({("r", row["recipient"]) if row["recipient"] else ("l", row["link"]) for row in people})
    unique_or_none = unique if question.is_unique else None
    sent, delivered = (_sum(each, named, promotions, question) for each in ("sent", "delivered"))
    found: dict[str, Any] = {}
    for by, value in named.items():
        found[column_of(by)] = value
        if by is By.PROMOTION:
            found["promotion"] = promotions[value].name if value in promotions else "Others"
        if by is By.LINK:
            found["link_name"] = next(row["link_name"] for row in rows) or "Others"
    return found | {
        "clicks": len(people),
        "clicks_all": len(accepted),
        "bot_clicks": len(accepted) - len(people),
        "duplicate_clicks": len(rows) - len(accepted),
        "unique_recipients": unique_or_none,
        "sent": sent,
        "delivered": delivered,
        "ctr_sent": len(people) / sent if sent else None,
        "ctr_delivered": len(people) / delivered if delivered else None,
        "unique_ctr_sent": unique / sent if sent and question.is_unique else None,
        "unique_ctr_delivered": unique / delivered if delivered and question.is_unique else None,
    }


def _sum(number: str, named: Mapping[By, str], promotions: Mapping[str, Promotion], question: Question) -> int | None:
    """Of the promotions that row or report names; None when it names none, there is none, or one is not known."""
    by_id = {"promotion_id": named.get(By.PROMOTION), "campaign_id": named.get(By.CAMPAIGN)}
    by_id["deployment_id"] = named.get(By.DEPLOYMENT)
    wanted = [(column, value) for column, value in by_id.items() if value is not None]
    wanted += [(column, value) for column, value in question.filters.items() if column in by_id]
    if any(column == "promotion_id" for column, _ in wanted):
        wanted = [(column, value) for column, value in wanted if column == "promotion_id"]
    if not wanted:
        return None
    members = [
        getattr(promotion, number)
        for promotion_id, promotion in promotions.items()
        if not promotion.is_deleted
        and all(
            (({"promotion_id": promotion_id} | promotion._asdict())[column] or "Others") == v for column, v in wanted
        )
    ]
    return None if not members or None in members else sum(members)
