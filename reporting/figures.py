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
TOO_MANY: Final = (
    f"More than {ROWS_MAX:,} rows: ask for less time, one promotion or fewer dimensions, or with limit={ROWS_MAX} "
    "for those with the most clicks; the EDR has every click"
)

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
_KNOWS_PROMOTION: Final = " UNION ALL ".join(
    f"SELECT 1 FROM {table} WHERE tenant = {{tenant:String}} AND promotion_id = {{promotion_id:String}} LIMIT 1"  # noqa: S608  # ours
    for table in ("promotions", "clicks")
)
_COUNTED, _DENOMINATORS = NUMBERS[:5], NUMBERS[5:7]
_MOMENTS: Final = """
(
    SELECT toDateTime(greatest(intDiv({begin:Int64}, 1000), arrayJoin(
        range(intDiv({begin:Int64}, 900000) * 900, intDiv({end:Int64} + 999, 1000), 900))), 'UTC') AS moment
)
"""
"""The quarters of an hour of the period, at least one in each hour, day and week of it in every zone."""
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
    has_empty: bool = False
    """Whether groups without a click have a row too; at most one dimension then, of those in KNOWN."""
    limit: int | None = None
    """Only so many rows, those with the most clicks; at most ROWS_MAX."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of its rows, in order."""
        named = ((COLUMNS[by], BESIDE[by]) if by in self.beside else (COLUMNS[by],) for by in self.by)
        return (*(column for columns in named for column in columns), *NUMBERS)

    @property
    def beside(self) -> tuple[By, ...]:
        """Its dimensions with a name beside the id, where that is no dimension itself."""
        columns = {COLUMNS[by] for by in self.by}
        return tuple(by for by in self.by if by in BESIDE and BESIDE[by] not in columns)


async def read(clickhouse: ClickHouse, question: Question) -> list[dict[str, Any]]:
    """The rows, at most one more than ROWS_MAX: in the order of time, then most clicks first. Raises as ClickHouse does."""
    rows = []
    for values in await clickhouse.query(*query_of(question)):
        row = dict(zip(question.columns, values, strict=True))
        rows.append(row | {COLUMNS[by]: show(by, row[COLUMNS[by]]) for by in question.by})
    return rows


def says_nothing(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether no row counts anything: perhaps what was asked for does not exist."""
    return not any(row["clicks_all"] or row["duplicate_clicks"] for row in rows)


async def knows_promotion(clickhouse: ClickHouse, tenant: str, promotion_id: str) -> bool:
    """Whether a promotion is, or was, registered by the tenant, or has clicks. Raises as ClickHouse does."""
    params = {"tenant": tenant, "promotion_id": promotion_id}
    return bool(await clickhouse.query(_KNOWS_PROMOTION, params))


async def count_groups(clickhouse: ClickHouse, question: Question) -> int:
    """How many rows there are without the limit. Raises as ClickHouse does."""
    counted = _counted(question._replace(is_unique=False))
    ((count,),) = await clickhouse.query(f"SELECT count() FROM ({counted})", _params(question))  # noqa: S608  # as below
    return int(count)


def query_of(question: Question) -> tuple[str, dict[str, Any]]:
    """The query, whose columns are the question's, and its parameters."""
    by = question.by
    shown = [expression for each in by for expression in (_alias(each), _beside(question, each)) if expression]
    times = [_alias(each) for each in by if each in TIMES]
    sql = f"""
SELECT {", ".join([*shown, *_COUNTED, *_DENOMINATORS, *_RATIOS])}
FROM ({_counted(question)}) AS counted
{_denominators(question)}
ORDER BY {", ".join([*(times if question.limit is None else ()), _most(by)])}
LIMIT {{limit:UInt32}}
"""  # noqa: S608  # names are of closed lists; what was asked for are parameters
    if times and question.limit is not None:
        sql = f"SELECT * FROM ({sql}) ORDER BY {', '.join([*times, _most(by)])}"  # noqa: S608  # as above
    return sql, _params(question)


def _params(question: Question) -> dict[str, Any]:
    params = {
        "tenant": question.tenant,
        "zone": question.period.zone.key,
        "begin": round(question.period.begin.timestamp() * 1000),
        "end": round(question.period.end.timestamp() * 1000),
        "limit": ROWS_MAX + 1 if question.limit is None else question.limit,
    }
    return params | {f"only_{column}": stored(value) for column, value in question.filters.items()}


def _counted(question: Question) -> str:
    """The groups and what is counted of each."""
    counted = _clicked(question)
    return _with_empty(question, counted) if question.has_empty and question.by else counted


def _clicked(question: Question) -> str:
    """Those of them that have a click, a bot or a duplicate."""
    return _from_quarters(question) if _is_of_quarters(question) else _from_rows(question)


def _with_empty(question: Question, counted: str) -> str:
    """Groups that are known without a click, too; of promotions those that are registered now."""
    (by,) = question.by
    key = _alias(by)
    unique = "sum(unique_recipients)" if question.is_unique else "NULL"
    return f"""
    SELECT {key}, {", ".join(f"sum({number}) AS {number}" for number in _COUNTED[:4])}, {unique} AS unique_recipients
    FROM
    (
        SELECT {key}, {", ".join(_COUNTED)} FROM ({counted})
        UNION ALL
        SELECT {key_of(by, "moment")} AS {key}, 0, 0, 0, 0, {"0" if question.is_unique else "NULL"}
        FROM {_MOMENTS if by in TIMES else _registered(question)}
        GROUP BY {key}
    )
    GROUP BY {key}
"""  # noqa: S608  # as above


def _registered(question: Question) -> str:
    owners = [COLUMNS[by] for by in OWNERS if COLUMNS[by] in question.filters]
    return f"promotions FINAL WHERE tenant = {{tenant:String}} AND NOT is_deleted {_only(owners)}"


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
    """Who clicked is gathered for as many groups as an answer may have: there may be a million, each with many clickers.

    With a limit those groups are chosen first, by clicks. Without one there are too many for an answer, whichever they are.
    """
    bound = f"SETTINGS max_rows_to_group_by = {ROWS_MAX + 1}, group_by_overflow_mode = 'any'"
    return f"""
    SELECT
        {_keys(question.by, "clicked_at")}
        {"any(link_name) AS beside_link," if By.LINK in question.beside else ""}
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
        {_among_the_most(question) if question.limit is not None and question.is_unique and question.by else ""}
    {_groups(question.by)}
    {bound if question.limit is None else ""}
"""  # noqa: S608  # as above


def _among_the_most(question: Question) -> str:
    """The groups with the most clicks, as many as are asked for."""
    keys = ", ".join(_flat(by, key_of(by, "clicked_at")) for by in question.by)
    chosen = ", ".join(_flat(by, _alias(by)) for by in question.by)
    counted = _clicked(question._replace(is_unique=False))
    return f"AND ({keys}) IN (SELECT {chosen} FROM ({counted}) ORDER BY {_most(question.by)} LIMIT {{limit:UInt32}})"  # noqa: S608  # as above


def _denominators(question: Question) -> str:
    """A join with what was sent and delivered, of the promotions as they are now.

    A row has them when it, or the whole report, is of promotions that are named. Of several promotions they are the
    sums, and unknown when one of them is. Where a promotion is named its campaign does not matter: it may have moved.
    A deleted promotion keeps its name beside its clicks, and is in no sum.
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
        {_sum_of("sent")}, {_sum_of("delivered")}
    FROM promotions FINAL
    WHERE tenant = {{tenant:String}} {_only([COLUMNS[by] for by in filters])}
    {f"GROUP BY {', '.join(f'of_{by}' for by in keys)}" if keys else ""}
) AS owners
{f"ON {matches}" if keys else ""}
"""  # noqa: S608  # as above


def _sum_of(number: str) -> str:
    is_known = f"countIf(NOT is_deleted) > 0 AND countIf(NOT is_deleted AND {number} IS NULL) = 0"
    return f"if({is_known}, sumIf({number}, NOT is_deleted), NULL) AS {number}"


def _most(by: Sequence[By]) -> str:
    """Most clicks first; the order is total, so that a limit takes the same groups each time."""
    return ", ".join(["clicks DESC", "clicks_all DESC", *map(_alias, by)])


def _flat(by: By, expression: str) -> str:
    """A key as `IN` compares it: a tuple within a tuple would be taken apart."""
    return f"tupleElement({expression}, 1), tupleElement({expression}, 2)" if by is By.HOUR else expression


def _alias(by: By) -> str:
    return f"by_{by}"  # not the column's own name, which filters must mean


def _beside(question: Question, by: By) -> str:
    """The expression of the name beside an id, '' where there is none."""
    names = {By.PROMOTION: "owner_name", By.LINK: "beside_link"}
    return f"if(empty({names[by]}), '{OTHERS}', {names[by]})" if by in question.beside else ""


def _keys(by: Iterable[By], moment: str) -> str:
    return "".join(f"{key_of(each, moment)} AS {_alias(each)}, " for each in by)


def _groups(by: Sequence[By]) -> str:
    return f"GROUP BY {', '.join(map(_alias, by))}" if by else ""


def _only(columns: Iterable[str]) -> str:
    return "".join(f" AND {column} IN {{only_{column}:Array(String)}}" for column in columns)
