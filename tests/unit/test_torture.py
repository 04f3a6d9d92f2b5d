"""The judge of the torture runs, its file of results and the page made from it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from clickledger.load.answers import Accepted, Outcome, Refused, Uncertain
from clickledger.load.clicks import Click
from tests.torture import report
from tests.torture.__main__ import order
from tests.torture.books import Books, UnansweredRow, number_of
from tests.torture.faults import FAULTS
from tests.torture.load import Stall
from tests.torture.record import Recorder, encode, read
from tests.torture.rounds import Round

PAGE = report.PAGE.read_text(encoding="utf-8")
A, B, C = (f"0000000{n}-0000-7000-8000-000000000000" for n in range(3))


def books(*outcomes: Outcome, keys: tuple[str | None, ...] = ()) -> Books:
    """Books in which click n had the n-th outcome."""
    made = Books()
    clicks = [Click("http://s/?run=r", idempotency_key=keys[n] if keys else None) for n in range(len(outcomes))]
    for click, outcome in zip(made.numbered(clicks), outcomes, strict=True):
        made.note(click, outcome)
    return made


def test_clicks_are_numbered_and_a_repeated_key_keeps_its_number() -> None:
    """The number is the last thing of the query, so the row says which attempt it is of."""
    clicks = [Click("http://s/?run=r", idempotency_key=key) for key in (None, "k", None, "k")]
    assert [number_of(click.short_url) for click in Books().numbered(clicks)] == [0, 1, 2, 1]
    assert number_of("http://s/?run=r") == -1


def test_a_row_of_an_answered_click_is_explained_by_its_own_id_only() -> None:
    """The same click's row with an id that nobody was told is a stray, as is a row of a click that was never sent."""
    made = books(Accepted(A))
    assert made.strays([UnansweredRow(0, A)]) == []
    assert len(made.strays([UnansweredRow(0, A), UnansweredRow(0, B), UnansweredRow(7, C), UnansweredRow(-1, C)])) == 3


def test_an_unknown_attempt_explains_one_row_of_its_own_click() -> None:
    """Not a second one, and none of another click; a refused attempt explains none."""
    made = books(Uncertain("500"), Refused("429"))
    assert made.strays([UnansweredRow(0, A)]) == []
    assert len(made.strays([UnansweredRow(0, A), UnansweredRow(0, B)])) == 1
    assert len(made.strays([UnansweredRow(1, A)])) == 1


def test_a_click_sent_again_with_its_key_may_have_one_id_for_both_attempts() -> None:
    """Unknown at first, answered at the second attempt: the one id is explained, another one by the unknown attempt."""
    made = books(Uncertain("500"), Accepted(A), keys=("k", "k"))
    assert made.strays([UnansweredRow(0, A), UnansweredRow(0, A)]) == []
    assert (made.sent, len(made.ledger), dict(made.unknown)) == (2, 1, {0: 1})


def test_a_stall_is_the_longest_time_between_two_signs_of_life() -> None:
    """What comes before the first sign does not count."""
    stall = Stall()
    for now in (10.0, 11.0, 14.5, 15.0):
        stall.beat(now)
    assert stall.longest_s == 3.5


def make_round(fault: str, **fields: Any) -> Round:
    """A round as a run records it."""
    return Round(fault, "s/1", "2026-11-24T15:00:00Z", **fields)


def test_rounds_are_appended_and_read_back(tmp_path: Path) -> None:
    """Two runs that write by turns keep each other's rounds."""
    path = tmp_path / "torture.json"
    first, second = Recorder("make torture SEED=1", "1", path), Recorder("make torture SEED=2", "2", path)
    for recorder in (first, second, first):
        recorder.add(make_round("kill-sink", sent=5))
    assert [(run["seed"], len(run["rounds"])) for run in read(path)] == [("1", 2), ("2", 1)]
    assert encode(read(path)) == path.read_text()
    assert read(tmp_path / "none.json") == []


def test_the_table_sums_rounds_and_says_what_was_not_run(tmp_path: Path) -> None:
    """Sums of counts, the worst stalls, median and worst recovery; faults without rounds are named as not run."""
    path = tmp_path / "torture.json"
    recorder = Recorder("make torture FAULT=kill-sink SEED=1", "1", path)
    recorder.add(make_round("kill-sink", sent=1_000, answered=990, unknown=10, stall_rows_s=2.5, recovery_s=1.0))
    recorder.add(make_round("kill-sink", sent=500, answered=500, lost=1, recovery_s=3.0, problems=["1 id lost"]))
    lines = report.table(read(path)).splitlines()
    (line,) = [line for line in lines if line.startswith("| `kill-sink` ")]
    assert line == (
        "| `kill-sink` | 2 of 40: 38 not run | 1,500 | 1,490 | 10 | 1 | 0 | 1 | 0.0 | 2.5 | 2.0, 3.0 "
        "| `make torture FAULT=kill-sink SEED=1` |"
    )
    assert any("`kill-all` | 0 of 40: not run" in line for line in lines)
    recorder.add_late(["at the end: 1 id lost"])
    assert report.table(read(path)).endswith(
        "FOUND LATE by `make torture FAULT=kill-sink SEED=1`: at the end: 1 id lost"
    )


def test_the_page_shows_the_file_of_results() -> None:
    """Written anew by: .venv/bin/python -m tests.torture.report."""
    assert report.with_table(PAGE, report.table(read())) == PAGE


def test_the_page_tells_what_each_fault_does() -> None:
    """Each fault has its line in the page, and no other has."""
    told = re.findall(r"^\| `([a-z0-9-]+)` \| ", PAGE.partition(report.BEGIN)[0], re.MULTILINE)
    assert told == [fault.name for fault in FAULTS]


def test_the_whole_table_fits_two_hours() -> None:
    """By the time that a round takes on a quiet machine with two cores."""
    assert sum(fault.seconds * fault.rounds for fault in FAULTS) <= 120 * 60


def test_variables_say_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """One fault, some or all; a number of rounds, or what is missing; the command can be repeated."""
    monkeypatch.setattr("tests.torture.__main__.read", lambda: [{"rounds": [{"fault": "kill-sink"}] * 39}])
    assert order({"FAULT": "kill-sink,kill-all", "SEED": "7"})[:2] == ({"kill-sink": 1, "kill-all": 40}, "7")
    ordered = order({"FAULT": "kill-sink", "ROUNDS": "3", "SEED": ""})
    assert ordered.rounds == {"kill-sink": 3}
    assert ordered.command == f"make torture FAULT=kill-sink ROUNDS=3 SEED={ordered.seed}"
    assert order({}).rounds.keys() == {fault.name for fault in FAULTS}
    with pytest.raises(ValueError, match="no fault kill-cat; there are: kill-"):
        order({"FAULT": "kill-cat"})
