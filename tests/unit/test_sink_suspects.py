"""Second copies and rows that cannot be stored: pure."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from shared.clickhouse import UnknownClickHouseError
from shared.enriched_fields import ENRICHED_FIELDS, ENRICHED_NAMES
from shared.errors import ClickledgerError, DataError, OperatorError
from shared.ids import keyed_id, uuid7_with_partition
from sink.poison import find_poison, known_good, not_storable
from sink.rows import Row, Rows
from sink.suspects import CLOCK_SLACK_MS, REMEMBER_S, Asked, Copies, Remembered, questions, rewritten

MADE = 1_700_000_000_000
TIMED = uuid7_with_partition(MADE, 3, b"12345678")
KEYED = keyed_id("acme", "order-1", 6)
GOOD = known_good("s", 3, MADE)


def row(raw_offset: int, transaction_id: str, *, suspect: bool = False, **fields: Any) -> Row:
    """A row with this id."""
    times = {"received_at": MADE, "expires_at": MADE + 90 * 86_400_000}
    record = {"status": "accepted", "reason": "", "replay_of": "", **times, "click_digest": "", "raw": ""} | fields
    return Row(raw_offset, raw_offset, MADE, transaction_id.encode(), orjson.dumps(record), suspect, is_broken=False)


def changed(rows: Sequence[Row], remembered: Remembered, stored: dict[str, str | Copies]) -> dict[int, str]:
    """The reason of each row that becomes a duplicate; `stored` has Copies, or the digest of an accepted row."""
    copies = {key: Copies(found) if isinstance(found, str) else found for key, found in stored.items()}
    values = rewritten(rows, remembered.watched(Rows.of(rows)), copies)
    records = {raw_offset: orjson.loads(value) for raw_offset, value in values.items()}
    assert all(record["status"] == "duplicate" for record in records.values())
    return {raw_offset: record["reason"] for raw_offset, record in records.items()}


def test_an_ordinary_block_asks_nothing() -> None:
    """No suspects, none remembered: no id is watched."""
    rows = [row(n, uuid7_with_partition(MADE, 3, n.to_bytes(8, "big"))) for n in range(3)]
    assert Remembered().watched(Rows.of(rows)) == frozenset()


@pytest.mark.parametrize("suspect_first", [True, False])
def test_two_copies_in_one_block(suspect_first: bool) -> None:
    """The second in order is the duplicate, whichever is marked."""
    rows = [row(0, TIMED, suspect=suspect_first), row(1, TIMED, suspect=not suspect_first)]
    assert changed(rows, Remembered(), {}) == {1: "replayed"}


def test_a_suspect_with_a_stored_copy() -> None:
    """The table has an accepted row: every later copy is a duplicate."""
    rows = [row(5, TIMED, suspect=True), row(6, TIMED, suspect=True)]
    assert changed(rows, Remembered(), {TIMED: ""}) == {5: "replayed", 6: "replayed"}


def test_an_original_after_its_replay() -> None:
    """The stored suspect is remembered, so the unmarked original is looked up."""
    remembered = Remembered()
    remembered.add([TIMED.encode()], 100.0)
    rows = [row(5, TIMED)]
    assert questions(rows, remembered.watched(Rows.of(rows))) == [Asked(TIMED, MADE - CLOCK_SLACK_MS)]
    assert changed(rows, remembered, {TIMED: ""}) == {5: "replayed"}


def test_remembering_is_only_a_filter() -> None:
    """An id that is remembered but not stored as accepted changes nothing."""
    remembered = Remembered()
    remembered.add([TIMED.encode()], 100.0)
    assert changed([row(5, TIMED)], remembered, {}) == {}


def test_what_is_remembered_ends_with_its_time() -> None:
    """Exactly REMEMBER_S before the latest block is forgotten, a moment less is not."""
    remembered = Remembered()
    remembered.add([b"a", b"b"], 100.0)
    remembered.add([b"b"], 101.0)
    remembered.prune(100.0 + REMEMBER_S)
    assert len(remembered) == 1


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("aa", "aa", "idempotency_key_repeated"),
        ("aa", "bb", "idempotency_key_reused"),
        ("", "bb", "idempotency_key_repeated"),
        ("aa", "", "idempotency_key_repeated"),
    ],
)
def test_a_reused_key_is_told_from_a_repeated_one(first: str, second: str, reason: str) -> None:
    """By the digests of both bodies, where both have one; against the table and within the block."""
    stored = [row(7, KEYED, suspect=True, click_digest=second)]
    assert changed(stored, Remembered(), {KEYED: first}) == {7: reason}
    both = [row(6, KEYED, suspect=True, click_digest=first), *stored]
    assert changed(both, Remembered(), {}) == {7: reason}


@pytest.mark.parametrize("status", ["duplicate", "rejected", "malformed"])
def test_only_accepted_rows_count_as_copies(status: str) -> None:
    """A row that is not accepted neither becomes a duplicate nor makes one."""
    rows = [row(0, TIMED, suspect=True, status=status), row(1, TIMED, suspect=True)]
    assert changed(rows, Remembered(), {}) == {}


def test_a_keyed_id_is_looked_up_over_the_retention() -> None:
    """It carries no time: back by as much as its record is kept."""
    rows = [row(0, KEYED, suspect=True, received_at=1_000_000_000, expires_at=1_100_000_000)]
    (asked,) = questions(rows, Remembered().watched(Rows.of(rows)))
    assert asked.not_before_ms == 900_000_000 - CLOCK_SLACK_MS


@pytest.mark.parametrize(
    ("transaction_id", "fields", "not_before_ms"),
    [
        (TIMED, {}, MADE - CLOCK_SLACK_MS),
        (TIMED, {"received_at": MADE - 7}, MADE - 7 - CLOCK_SLACK_MS),
        ("ffffffff-ffff-7fff-8000-000000000000", {}, MADE - CLOCK_SLACK_MS),
        ("ffffffff-ffff-7fff-8000-000000000000", {"received_at": 1 << 62}, 4_102_444_800_000),
        (TIMED, {"received_at": -(1 << 62)}, 0),
        (TIMED, {"received_at": "yesterday"}, 0),
    ],
)
def test_no_record_makes_a_time_that_the_table_cannot_hold(
    transaction_id: str, fields: dict[str, Any], not_before_ms: int
) -> None:
    """An id not made by us, or a record not written by us, may carry any number."""
    rows = [row(0, transaction_id, suspect=True, **fields)]
    assert [asked.not_before_ms for asked in questions(rows, Remembered().watched(Rows.of(rows)))] == [not_before_ms]


X, Y = "s1/3/7", "s1/3/8"


@pytest.mark.parametrize("status", ["accepted", "duplicate", "rejected", "malformed"])
def test_a_further_replay_of_one_row_is_a_duplicate(status: str) -> None:
    """Whatever became of the first; in one block, and against the table. Replays of different rows are none of each other."""
    rows = [row(n, KEYED, suspect=True, status=status, replay_of=replay) for n, replay in enumerate((X, X))]
    assert changed(rows, Remembered(), {}) == {1: "replayed"}
    assert changed(rows[:1], Remembered(), {KEYED: Copies(None, frozenset({X}))}) == {0: "replayed"}
    assert changed(rows[:1], Remembered(), {KEYED: Copies(None, frozenset({Y}))}) == {}
    (asked,) = questions(rows, Remembered().watched(Rows.of(rows)))
    assert asked.replays == (X, X)


def test_a_replay_of_a_replay_counts_once() -> None:
    """A chain in one block: rejected, then accepted; the next copy of the click is a duplicate."""
    rows = [
        row(0, TIMED, suspect=True, status="rejected", replay_of=X),
        row(1, TIMED, suspect=True, replay_of=Y),
        row(2, TIMED, suspect=True, replay_of="s1/3/9"),
    ]
    assert changed(rows, Remembered(), {}) == {2: "replayed"}


@pytest.mark.parametrize("bad", ["s1/3", "s'1/3/7", "s1/3/7 ", "s1/\u0663/7", 7, None, ["s1", 3, 7], "x" * 65 + "/1/1"])
def test_what_is_no_position_is_never_asked(bad: object) -> None:
    """The words of a foreign record do not get into a query."""
    rows = [row(n, TIMED, suspect=True, status="rejected", replay_of=bad) for n in range(2)]
    assert [asked.replays for asked in questions(rows, Remembered().watched(Rows.of(rows)))] == [()]
    assert changed(rows, Remembered(), {}) == {}


def test_a_flood_of_suspects_takes_no_more_memory() -> None:
    """Beyond the limit every id is watched, until the last of the flood is as old as what is remembered may be."""
    remembered = Remembered(ids_max=3)
    remembered.add([b"%d" % n for n in range(3)], 100.0)
    rows = [row(5, TIMED)]
    assert remembered.watched(Rows.of(rows)) == frozenset()
    remembered.add([b"2", b"3"], 150.0)
    assert len(remembered) == 3
    assert remembered.watched(Rows.of(rows)) == {TIMED.encode()}
    remembered.prune(149.0 + REMEMBER_S)
    assert (len(remembered), remembered.watched(Rows.of(rows))) == (1, {TIMED.encode()})
    remembered.prune(150.0 + REMEMBER_S)
    assert (len(remembered), remembered.watched(Rows.of(rows))) == (0, frozenset())


def test_other_fields_stay_as_they_are() -> None:
    """Only status and reason change, unknown keys and order included."""
    rows = [row(0, TIMED, suspect=True, later_field=[1]), row(1, TIMED, suspect=True, later_field=[2])]
    (value,) = rewritten(rows, Remembered().watched(Rows.of(rows)), {}).values()
    before = orjson.loads(rows[1].value)
    assert list(orjson.loads(value)) == list(before)
    assert orjson.loads(value) == before | {"status": "duplicate", "reason": "replayed"}


def test_keys_that_are_no_ids_are_left_alone() -> None:
    """Garbage under a suspect header neither asks nor breaks anything."""
    rows = [row(0, "nonsense", suspect=True), row(1, "\u00e9", suspect=True)]
    watched = Remembered().watched(Rows.of(rows))
    assert questions(rows, watched) == []
    assert rewritten(rows, watched, {}) == {}


@pytest.mark.parametrize("bad", [set(), {0}, {99}, {0, 99}, {17, 18, 64}, set(range(100))])
async def test_bisection_finds_exactly_the_rows_that_are_refused(bad: set[int]) -> None:
    """None, one at each end, neighbours, all."""
    rows = [row(n, TIMED) for n in range(100)]

    async def probe(some: Sequence[Row]) -> None:
        if any(r.raw_offset in bad and r is not GOOD for r in some):
            raise DataError("refused")

    assert {r.raw_offset for r in await find_poison(rows, GOOD, probe)} == bad


REFUSALS = [DataError("refused"), UnknownClickHouseError("code 4711")]


@pytest.mark.parametrize("error", REFUSALS, ids=["data", "unknown"])
async def test_a_row_is_never_condemned_for_what_the_server_does(error: ClickledgerError) -> None:
    """A schema or server that refuses everything, the known-good row too, is the operator's: no row is found."""

    async def probe(_: Sequence[Row]) -> None:
        raise error

    with pytest.raises(OperatorError, match="known to be good"):
        await find_poison([row(0, TIMED)], GOOD, probe)


@pytest.mark.parametrize("error", REFUSALS, ids=["data", "unknown"])
async def test_a_row_that_is_refused_now_and_then_is_not_condemned(error: ClickledgerError) -> None:
    """An error that comes and goes with time is nobody's value; one that stays with the row is."""
    refusals = iter([True, False])

    async def flickering(some: Sequence[Row]) -> None:
        if some[0] is not GOOD and next(refusals):
            raise error

    async def steady(some: Sequence[Row]) -> None:
        if some[0] is not GOOD:
            raise error

    assert await find_poison([row(0, TIMED)], GOOD, flickering) == []
    assert len(await find_poison([row(0, TIMED)], GOOD, steady)) == 1


def test_the_good_row_has_a_value_in_every_column() -> None:
    """Of the column's own kind, so that a changed type or a missing column refuses it."""
    record = orjson.loads(GOOD.value)
    assert tuple(record) == ENRICHED_NAMES
    kinds = {"string": str, "integer": int, "integer?": int, "boolean": bool}
    assert all(
        type(record[field.name]) is kinds[field.json_type] and record[field.name]
        for field in ENRICHED_FIELDS
        if field.name != "raw_partition"
    )


@pytest.mark.parametrize(
    ("value", "raw"), [(b'{"a":1}', '{"a":1}'), (b"\xff", "base64:/w=="), (b"", ""), (b"\x00\n", "\x00\n")]
)
def test_a_row_that_cannot_be_stored_keeps_its_place_and_bytes(value: bytes, raw: str) -> None:
    """All keys, in order; position and id from outside the value; kept for the default retention."""
    bad = Row(42, 50, MADE, TIMED.encode(), value, is_suspect=False, is_broken=False)
    record = orjson.loads(not_storable(bad, "s", 3, MADE + 5))
    assert tuple(record) == ENRICHED_NAMES
    assert (record["stream"], record["raw_partition"], record["raw_offset"]) == ("s", 3, 42)
    assert (record["transaction_id"], record["status"], record["reason"]) == (TIMED, "malformed", "not_storable")
    assert record["raw"] == raw
    assert record["expires_at"] > MADE + 89 * 86_400_000
    nameless = orjson.loads(not_storable(bad._replace(key=b"?", timestamp_ms=-1), "s", 3, MADE))
    assert (nameless["transaction_id"], nameless["received_at"]) == (str(uuid.UUID(int=0)), MADE)
