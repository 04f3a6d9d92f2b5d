"""The books of a verified run."""

from __future__ import annotations

import itertools
import random
from uuid import UUID

import pytest

from clickledger.load import verify
from clickledger.load.verify import Ledger, Mismatches, StoredRow, marked, pattern


def _ids(count: int) -> list[str]:
    rng = random.Random(5)
    return [str(UUID(int=rng.getrandbits(128))) for _ in range(count)]


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2500])
def test_slices_hold_every_id_once(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Whatever the number, the slices partition both the ids and the whole range of tails."""
    monkeypatch.setattr(verify, "SLICE_IDS", 500)
    ledger, ids = Ledger(), _ids(count)
    for transaction_id in ids:
        ledger.add(transaction_id)
    slices = list(ledger.slices())
    assert sorted(each for _, _, part in slices for each in part) == sorted(ids)
    assert (slices[0][0], slices[-1][1]) == ("00", "ff")
    assert all(int(before[1], 16) + 1 == int(after[0], 16) for before, after in itertools.pairwise(slices))
    for first, last, part in slices:
        assert all(first <= each[-2:] <= last for each in part)
    assert len(slices) > count // 500 / 2


def test_the_ledger_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the run stops with a way out, instead of eating the machine."""
    monkeypatch.setattr(verify, "IDS_MAX", 2)
    ledger = Ledger()
    for transaction_id in _ids(2):
        ledger.add(transaction_id)
    with pytest.raises(OverflowError, match="--count"):
        ledger.add(_ids(1)[0])


@pytest.mark.parametrize(
    ("rows", "fields", "is_proof"),
    [
        ([("a", 1, 0, 0), ("b", 1, 0, 0)], {}, True),
        ([("a", 1, 3, 0), ("b", 1, 0, 0)], {"duplicates": 3}, True),
        ([("a", 1, 0, 0)], {"missing": 1}, False),
        ([("a", 1, 0, 0), ("b", 0, 1, 0)], {"missing": 1, "duplicates": 1}, False),
        ([("a", 2, 0, 0), ("b", 1, 0, 0)], {"doubled": 1}, False),
        ([("a", 1, 0, 1), ("b", 1, 0, 0)], {"wrong_status": 1}, False),
        ([("a", 1, 0, 0), ("b", 1, 0, 0), ("c", 1, 0, 0)], {"unanswered": 1}, True),
        ([("a", 1, 0, 0), ("b", 1, 0, 0), ("c", 1, 0, 0), ("d", 1, 0, 0)], {"unanswered": 2}, False),
    ],
)
def test_each_mismatch_is_found(rows: list[tuple[str, int, int, int]], fields: dict[str, int], is_proof: bool) -> None:
    """One unknown outcome may have left one row; everything else must match exactly."""
    found = Mismatches()
    found.compare({"a", "b"}, [StoredRow(*row) for row in rows])
    names = ("missing", "doubled", "wrong_status", "unanswered", "duplicates")
    assert {name: getattr(found, name) for name in names if getattr(found, name)} == fields
    assert found.is_proof(unknown_outcomes=1) is is_proof
    assert found.checked == 2
    assert bool(found.examples) == bool({"missing", "doubled", "wrong_status", "unanswered"} & set(fields))


def test_examples_are_few() -> None:
    """A million mismatches print five."""
    found = Mismatches()
    found.compare(set(_ids(100)), [])
    assert (found.missing, len(found.examples)) == (100, verify.EXAMPLES_MAX)


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("http://s/a", "http://s/a?clickledger-run=r1"),
        ("http://s/a?x=1", "http://s/a?x=1&clickledger-run=r1"),
        ("http://s/a#top", "http://s/a?clickledger-run=r1#top"),
    ],
)
def test_the_mark_goes_into_the_query(url: str, wanted: str) -> None:
    """The query is dropped at look-up and kept in the row."""
    assert marked(url, "r1") == wanted
    assert pattern("r1").strip("%") in wanted


@pytest.mark.parametrize("run", ["", "a%", "a_b", "A", "a" * 33])
def test_a_run_id_never_carries_wildcards(run: str) -> None:
    """The pattern finds this run only."""
    with pytest.raises(ValueError, match="run id"):
        pattern(run)
