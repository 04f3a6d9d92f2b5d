"""The figures of clicks: what each number means, and the query that counts them.

The numbers are counted here and in the view `ctr_daily` in the same words; a test holds both against a recount of the
rows. Counts by promotion and time are answered from the projection `quarters`: a quarter of an hour is the least common
part of the hours of all zones. Different recipients and other dimensions are asked of the rows of the tenant, promotion
and time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from reporting.dimensions import BESIDE, COLUMNS, OTHERS, OWNERS, TIMES, By, key_of, show, stored
from reporting.periods import Period
from shared.clickhouse import ClickHouse

ROWS_MAX: Final = 10_000
"""Rows of one answer (about 4 MB); a request for more is refused, never cut in silence."""

NUMBERS: Final = (
    "clicks",
    "clicks_all",
    "bot_clicks",
    "duplicate_clicks",
    "unique_recipients",
    "sent",
    "delivered",
    "ctr_sent",
    "ctr_delivered",
    "unique_ctr_sent",
    "unique_ctr_delivered",
)
"""The numbers of every row, in the report's order."""

_QUARTER_COLUMNS: Final = "promotion_id, campaign_id, deployment_id, status, is_bot"
"""Beside tenant and time, what the projection `quarters` keeps apart."""
_IS_CLICK: Final = "status = 'accepted' AND NOT is_bot"
_UNIQUE: Final = f"uniqExactIf(recipient, {_IS_CLICK} AND NOT empty(recipient)) + uniqExactIf(link, {_IS_CLICK} AND empty(recipient))"
"""Different recipients, and the links of clicks without one: no recipient can be taken for a link."""
_COUNTED, _DENOMINATORS = NUMBERS[:5], NUMBERS[5:7]
_RATIOS: Final = tuple(
    f"if({number} > 0, {clicks} / {number}, NULL)"
    for clicks in ("clicks", "unique_recipients")
    for number in _DENOMINATORS
)


class Question(NamedTuple):
    """What a report is about."""

    tenant: str
    period: Period
    by: tuple[By, ...]
    filters: Mapping[str, str]
    """Column -> the value that it is narrowed to."""
    is_unique: bool = True
    """Whether different recipients are counted, which takes the rows themselves."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of its rows, in order."""
        named = (column for by in self.by for column in (COLUMNS[by], BESIDE.get(by)) if column)
        return (*named, *NUMBERS)


async def read(clickhouse: ClickHouse, question: Question) -> list[dict[str, Any]]:
    """The rows, at most one more than ROWS_MAX: in the order of time, then most clicks first. Raises as ClickHouse does."""
    rows = []
    for values in await clickhouse.query(*query_of(question)):
        row = dict(zip(question.columns, values, strict=True))
        rows.append(row | {COLUMNS[by]: show(by, row[COLUMNS[by]]) for by in question.by})
    return rows


def query_of(question: Question) -> tuple[str, dict[str, Any]]:
    """The query, whose columns are the question's, and its parameters."""
    by = question.by
    shown = [expression for each in by for expression in (_alias(each), _beside(each)) if expression]
    times = [_alias(each) for each in by if each in TIMES]
    order = [*times, "clicks DESC", "clicks_all DESC", *(_alias(each) for each in by)]
    sql = f"""
SELECT {", ".join([*shown, *_COUNTED, *_DENOMINATORS, *_RATIOS])}
FROM ({_from_quarters(question) if _is_of_quarters(question) else _from_rows(question)}) AS counted
{_denominators(question)}
ORDER BY {", ".join(order)}
LIMIT {{limit:UInt32}}
"""  # noqa: S608  # names are of closed lists; what was asked for are parameters
    params = {
        "tenant": question.tenant,
        "zone": question.period.zone.key,
        "begin": round(question.period.begin.timestamp() * 1000),
        "end": round(question.period.end.timestamp() * 1000),
        "limit": ROWS_MAX + 1,
    }
    return sql, params | {f"only_{column}": stored(value) for column, value in question.filters.items()}


def _is_of_quarters(question: Question) -> bool:
    return (
        not question.is_unique
        and {*OWNERS, *TIMES}.issuperset(question.by)
        and {COLUMNS[by] for by in OWNERS}.issuperset(question.filters)
        and question.period.is_of_quarters
    )


def _from_quarters(question: Question) -> str:
    return f"""
    SELECT
        {_keys(question.by, "moment")}
        sumIf(rows, {_IS_CLICK}) AS clicks,
        sumIf(rows, status = 'accepted') AS clicks_all,
        sumIf(rows, status = 'accepted' AND is_bot) AS bot_clicks,
        sumIf(rows, status = 'duplicate') AS duplicate_clicks,
        NULL AS unique_recipients
    FROM
    (
        SELECT
            {_QUARTER_COLUMNS}, toStartOfInterval(clicked_at, INTERVAL 15 MINUTE, 'UTC') AS moment,
            count() AS rows
        FROM clicks
        WHERE tenant = {{tenant:String}} AND status IN ('accepted', 'duplicate')
            AND moment >= toDateTime(intDiv({{begin:Int64}}, 1000), 'UTC')
            AND moment < toDateTime(intDiv({{end:Int64}}, 1000), 'UTC')
            {_only(question.filters)}
        GROUP BY {_QUARTER_COLUMNS}, moment
    )
    {_groups(question.by)}
"""  # noqa: S608  # as above


def _from_rows(question: Question) -> str:
    """Groups beyond the limit are not gathered: there are too many for an answer then, and each may hold many clickers."""
    return f"""
    SELECT
        {_keys(question.by, "clicked_at")}
        {"any(link_name) AS beside_link," if By.LINK in question.by else ""}
        countIf({_IS_CLICK}) AS clicks,
        countIf(status = 'accepted') AS clicks_all,
        countIf(status = 'accepted' AND is_bot) AS bot_clicks,
        countIf(status = 'duplicate') AS duplicate_clicks,
        {_UNIQUE if question.is_unique else "NULL"} AS unique_recipients
    FROM clicks
    WHERE tenant = {{tenant:String}} AND status IN ('accepted', 'duplicate')
        AND clicked_at >= fromUnixTimestamp64Milli({{begin:Int64}}, 'UTC')
        AND clicked_at < fromUnixTimestamp64Milli({{end:Int64}}, 'UTC')
        {_only(question.filters)}
    {_groups(question.by)}
    SETTINGS max_rows_to_group_by = {ROWS_MAX + 1}, group_by_overflow_mode = 'any'
"""  # noqa: S608  # as above


def _denominators(question: Question) -> str:
    """A join with what was sent and delivered, of the promotions as they are now.

    A row has them when it, or the whole report, is of promotions that are named. Of several promotions they are the
    sums, and unknown when one of them is. Where a promotion is named its campaign does not matter: it may have moved.
    """
    naming = [by for by in OWNERS if by in question.by or COLUMNS[by] in question.filters]
    if By.PROMOTION in naming:
        naming = [By.PROMOTION]
    filters = [by for by in naming if COLUMNS[by] in question.filters]
    keys = [by for by in naming if by in question.by]
    if not naming:
        return "CROSS JOIN (SELECT NULL AS sent, NULL AS delivered) AS owners"
    matches = " AND ".join(f"owners.of_{by} = {_alias(by)}" for by in keys)
    return f"""
{"LEFT" if keys else "CROSS"} JOIN
(
    SELECT
        {"".join(f"{key_of(by, '')} AS of_{by}, " for by in keys)}
        any(name) AS owner_name,
        if(count() = 0 OR countIf(sent IS NULL) > 0, NULL, sum(sent)) AS sent,
        if(count() = 0 OR countIf(delivered IS NULL) > 0, NULL, sum(delivered)) AS delivered
    FROM promotions FINAL
    WHERE tenant = {{tenant:String}} {_only([COLUMNS[by] for by in filters])}
    {f"GROUP BY {', '.join(f'of_{by}' for by in keys)}" if keys else ""}
) AS owners
{f"ON {matches}" if keys else ""}
"""  # noqa: S608  # as above


def _alias(by: By) -> str:
    return f"by_{by}"  # not the column's own name, which filters must mean


def _beside(by: By) -> str:
    """The expression of the name beside an id, '' where there is none."""
    names = {By.PROMOTION: "owner_name", By.LINK: "beside_link"}
    return f"if(empty({names[by]}), '{OTHERS}', {names[by]})" if by in names else ""


def _keys(by: Iterable[By], moment: str) -> str:
    return "".join(f"{key_of(each, moment)} AS {_alias(each)}, " for each in by)


def _groups(by: Sequence[By]) -> str:
    return f"GROUP BY {', '.join(map(_alias, by))}" if by else ""


def _only(columns: Iterable[str]) -> str:
    return "".join(f" AND {column} IN {{only_{column}:Array(String)}}" for column in columns)
