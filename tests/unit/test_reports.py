"""What a report is asked for, and how it is sent as a file."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import openpyxl
import pytest
from openpyxl.utils.escape import unescape

from reporting.dimensions import BY_MAX, FILTERS, KNOWN, By, check_empty, parse_by
from reporting.figures import NUMBERS, Question
from reporting.periods import DAYS_MAX, period_of, zone_of
from reporting.reports import SCHEMAS, Asked
from reporting.tables import as_csv, as_xlsx

NOW = datetime(2025, 10, 9, 20, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


def test_the_period_defaults_to_thirty_days_of_the_zone() -> None:
    """At 20:00 UTC it is tomorrow in Kolkata."""
    period = period_of("", "", zone_of("UTC"), NOW)
    assert (str(period.first), str(period.last)) == ("2025-09-10", "2025-10-09")
    assert str(period_of("", "", zone_of("Asia/Kolkata"), NOW).last) == "2025-10-10"


@pytest.mark.parametrize(
    ("day", "zone", "hours"),
    [
        ("2026-03-29", "Europe/Berlin", 23),
        ("2026-10-25", "Europe/Berlin", 25),
        ("2026-04-24", "Africa/Cairo", 23),  # midnight is skipped
        ("2026-04-05", "Australia/Lord_Howe", 24.5),
        ("2026-04-05", "Asia/Kathmandu", 24),
    ],
)
def test_a_day_is_as_long_as_in_its_zone(day: str, zone: str, hours: float) -> None:
    """From its first moment to the next day's, whole quarters of an hour."""
    period = period_of(day, day, ZoneInfo(zone), NOW)
    assert period.end.astimezone(UTC) - period.begin.astimezone(UTC) == timedelta(hours=hours)
    assert (str(period.first), str(period.last)) == (day, day)
    assert period.is_of_quarters


def test_a_period_of_moments() -> None:
    """To the millisecond; the end is not included, so its day is the one before when it is midnight."""
    period = period_of("2026-10-25T00:30:00.5Z", "2026-10-25T23:00:00Z", BERLIN, NOW)
    assert (period.begin.isoformat(), str(period.last)) == ("2026-10-25T02:30:00.500000+02:00", "2026-10-25")
    assert not period.is_of_quarters


def test_the_hour_that_comes_twice_is_no_empty_period() -> None:
    """From 2:30 summer time to 2:10 winter time are forty minutes; the other way round is refused."""
    first, last = "2026-10-25T00:30:00Z", "2026-10-25T01:10:00Z"
    assert period_of(first, last, BERLIN, NOW).first == period_of(first, last, BERLIN, NOW).last
    with pytest.raises(ValueError, match="not after"):
        period_of(last, first, BERLIN, NOW)


def test_the_longest_period() -> None:
    """At the limit, above it."""
    last = NOW.date()
    assert period_of(str(last - timedelta(days=DAYS_MAX - 1)), str(last), ZoneInfo("UTC"), NOW)
    with pytest.raises(ValueError, match="367 days"):
        period_of(str(last - timedelta(days=DAYS_MAX)), str(last), ZoneInfo("UTC"), NOW)


@pytest.mark.parametrize("zone", ["", "Mars/Base", "europe/berlin", "right/UTC", "/etc/passwd", "Europe/Berlin\0"])
def test_what_is_no_zone(zone: str) -> None:
    """Names that the system would look up as files too."""
    with pytest.raises(ValueError, match="time zone"):
        zone_of(zone)


def test_dimensions() -> None:
    """Any order, none, at most so many."""
    assert parse_by("day, browser", tuple(By)) == (By.DAY, By.BROWSER)
    assert parse_by(" ", tuple(By)) == ()
    for wrong in ("colour", "day,", "day,day", ",".join(tuple(By)[: BY_MAX + 1])):
        with pytest.raises(ValueError, match="by: "):
            parse_by(wrong, tuple(By))


def test_groups_without_a_click_are_known_by_one_dimension() -> None:
    """Of promotions or of time, or by none: nobody knows which browsers there are, nor wants each promotion in each hour."""
    check_empty(())
    for by in By:
        if by in KNOWN:
            check_empty((by,))
        else:
            with pytest.raises(ValueError, match=f"not by {by}"):
                check_empty((by,))
    with pytest.raises(ValueError, match="not by promotion,day"):
        check_empty((By.PROMOTION, By.DAY))


def test_every_filter_is_a_parameter() -> None:
    """And every number is described."""
    assert set(FILTERS) <= set(Asked.model_fields)
    assert list(SCHEMAS["ReportRow"]["properties"]) == list(NUMBERS)
    asked = Question("t", period_of("", "", BERLIN, NOW), (By.LINK,), {})
    assert asked.columns == ("link", "link_name", *NUMBERS)
    named = asked._replace(by=(By.LINK, By.PROMOTION, By.LINK_NAME))  # the name is a dimension, in its place
    assert named.columns == ("link", "promotion_id", "promotion", "link_name", *NUMBERS)


TEXTS = [
    "=1+1",
    "+1",
    "-1",
    "@x",
    "\tx",
    "\rx",
    "\nx",
    "＝1",
    "＋1",
    "－1",
    "＠x",
    "a,b",
    'say "x"',
    "two\r\nlines",
    "नमस्ते",
    "x\0\x07",
    "",
    "plain",
]


def test_a_csv_is_rfc_4180_and_has_no_formulas() -> None:
    """What begins like a formula begins with an apostrophe; everything else is read as it was; None is empty."""
    raw = as_csv(("text", "number"), [{"text": text, "number": None} for text in TEXTS]).decode()
    assert raw.startswith("text,number\r\n")
    found = [row[0] for row in csv.reader(io.StringIO(raw, newline=""))][1:]
    assert found == [f"'{text}" for text in TEXTS[:11]] + TEXTS[11:]


def test_a_workbook_opens_and_has_no_formulas() -> None:
    """Texts are texts, numbers numbers, None nothing; the second sheet says what it is about."""
    rows = [{"text": text, "number": number or None} for number, text in enumerate(TEXTS)]
    book = openpyxl.load_workbook(io.BytesIO(as_xlsx(("text", "number"), rows, {"zone": "UTC"})))
    cells = list(book["report"].iter_rows(min_row=2))
    assert {cell.data_type for row in cells for cell in row} <= {"s", "n", "inlineStr"}
    assert [unescape(row[0].value or "") for row in cells] == TEXTS
    assert [row[1].value for row in cells][:3] == [None, 1, 2]
    assert [[cell.value for cell in row] for row in book["about"].iter_rows()] == [["zone", "UTC"]]
