"""Places and choices: no order of records, copies and late ones makes a line of work skip or repeat an event."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reporting.webhooks import choosing
from reporting.webhooks.choosing import Choice, Entry, Wanted, is_over, prefix_of
from reporting.webhooks.places import (
    HOLES_MAX,
    Mark,
    Pending,
    Progress,
    Window,
    decode_progress,
    encode_progress,
)
from shared.enriched_fields import ENRICHED_FIELDS
from shared.events import encode_enriched
from shared.ids import uuid7_with_partition
from shared.rte import Filter

STREAM = "s1"
_ZERO = {"string": "", "integer": 0, "boolean": False, "integer?": None}


def entry(
    offset: int, raw: int | None, *, tenant: str = "acme", stream: str = STREAM, received_at: int = 1_000
) -> Entry:
    """One record of `clicks.enriched`."""
    record = {field.name: _ZERO[field.json_type] for field in ENRICHED_FIELDS} | {
        "v": 1,
        "stream": stream,
        "raw_offset": raw or 0,
        "transaction_id": uuid7_with_partition(1_000, 0, (raw or 0).to_bytes(8, "big")),
        "status": "accepted",
        "tenant": tenant,
        "received_at": received_at,
    }
    return Entry(offset, raw, orjson.dumps(tenant), encode_enriched(record))


def wanted(events_max: int = 1_000, bytes_max: int = 1 << 30, **window: int) -> Wanted:
    """What tenant `acme` wants: everything."""
    return Wanted(prefix_of(STREAM), b'"acme"', Filter.of(tenant="acme"), events_max, bytes_max, **window)


@given(st.data())
def test_each_raw_offset_is_given_once(data: st.DataObject) -> None:
    """First copies in any order, with copies anywhere behind them and late ones after holes: each is given exactly once."""
    raws = list(range(data.draw(st.integers(1, 30))))
    late = data.draw(st.lists(st.sampled_from(raws), unique=True, max_size=HOLES_MAX))
    order = [raw for raw in raws if raw not in late or raw == 0] + [raw for raw in late if raw]
    copies = data.draw(st.lists(st.integers(0, len(order) - 1), max_size=20))
    for at in sorted(copies, reverse=True):
        order.insert(data.draw(st.integers(at + 1, len(order))), order[at])
    mark, given_raws = Mark(0, 0), []
    for offset, raw in enumerate(order):
        mark, is_new = mark.step(offset, raw)
        if is_new:
            given_raws.append(raw)
    assert sorted(given_raws) == raws
    assert mark.offset == len(order)


def test_an_unknown_raw_offset_is_learnt() -> None:
    """The first record behind an unknown place is new and leaves no hole."""
    assert Mark(7).step(7, 100) == (Mark(8, 101), True)


def test_holes_are_bounded() -> None:
    """The oldest are forgotten."""
    mark = Mark(0, 0)
    for number in range(HOLES_MAX + 5):
        mark, _ = mark.step(number, number * 2 + 1)
    assert len(mark.holes) == HOLES_MAX


@given(st.integers(1, 20), st.integers(1, 7), st.integers(0, 20))
def test_a_choice_is_the_same_when_it_is_read_again(count: int, events_max: int, foreign: int) -> None:
    """The range that a choice leaves, read without limits, has the same events: a repetition has the same body."""
    entries = [
        entry(offset, offset, tenant="rival" if offset % 3 == foreign % 3 else "acme") for offset in range(count)
    ]
    first = Choice(wanted(events_max))
    first.take(0, Mark(0, 0), entries)
    again = Choice(wanted(1 << 40))
    again.take(0, Mark(0, 0), entries, first.marks[0].offset)
    assert again.events == first.events
    assert len(first.events) <= events_max
    assert again.marks == first.marks


def test_bytes_bound_a_choice() -> None:
    """A request has as many events as fit, and one at least."""
    one = Choice(wanted(bytes_max=1))
    one.take(0, Mark(0, 0), [entry(0, 0), entry(1, 1)])
    assert (one.count, one.is_full, one.marks[0]) == (1, True, Mark(1, 1))


def test_records_that_are_no_events() -> None:
    """Another stream's, one without a raw offset and one that is no JSON are passed over and move no raw offset."""
    broken = Entry(3, 3, b'"acme"', prefix_of(STREAM) + b"nonsense")
    choice = Choice(wanted())
    choice.take(0, Mark(0, 2), [entry(0, 99, stream="s2"), entry(1, None), entry(2, 2), broken, entry(4, 4)])
    assert choice.count == 2
    assert choice.marks[0] == Mark(5, 5)


def test_an_event_is_made_of_what_is_wanted_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is behind and wants few passes over many: they cost their decoding. What several want is made once."""
    made: list[int] = []
    monkeypatch.setattr(choosing, "event_of", lambda record: made.append(record["raw_offset"]) or {})
    entries = [entry(n, n, received_at=7_000 + n) for n in range(100)]
    for last_ms in (7_050, 7_050, 7_051):
        choice = Choice(wanted(from_ms=7_049, to_ms=last_ms + 1))
        choice.take(0, Mark(0, 0), entries)
        assert (choice.count, choice.marks[0]) == (last_ms - 7_048, Mark(100, 100))
    assert made == [49, 50, 51]


def test_a_window_of_time_and_its_end() -> None:
    """A replay has the clicks that were received in its range, and is over when all of its records were looked at."""
    choice = Choice(wanted(from_ms=10, to_ms=20))
    times = (9, 10, 19, 20, 15)
    choice.take(0, Mark(0), [entry(n, n, received_at=at) for n, at in enumerate(times)], 4)
    assert choice.count == 2
    progress = Progress(STREAM, {0: Mark(0)}, window=Window("r", 10, 20, {0: 4}))
    assert not is_over(progress)
    assert is_over(progress.moved(choice.marks))
    assert not is_over(Progress(STREAM, {}))


def test_a_range_whose_last_records_kafka_left_out() -> None:
    """What begins behind the range's end proves that nothing of it is left: the place is its end, and is reached."""
    choice = Choice(wanted())
    choice.take(0, Mark(0), [entry(0, 0), entry(7, 1)], 4)
    assert (choice.count, choice.marks[0]) == (1, Mark(4, 1))
    choice.take(1, Mark(9, 5), [entry(9, 5)], 4)
    assert choice.marks[1] == Mark(9, 5)


def test_a_record_of_progress_comes_back() -> None:
    """Whatever is in it."""
    pending = Pending("id", {0: Mark(5, 6)}, 3, "a1", 2, 10, 20)
    for progress in (
        Progress(STREAM, {}),
        Progress(STREAM, {0: Mark(1, 2, ((3, 4),)), 7: Mark(8)}, 1, pending, 2, 3, 4, Window("r", 1, 2, {0: 9}, 5)),
    ):
        assert decode_progress(orjson.loads(orjson.dumps(encode_progress(progress)))) == progress
