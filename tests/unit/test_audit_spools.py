"""The audit's verdict on spools."""

from __future__ import annotations

from typing import Any

import pytest

from clickledger.audit_spools import SpoolProblem, is_settled, judge_spools

NOW_MS = 1_700_000_000_000
SILENCE_MS = 60_000


def record(**changes: Any) -> dict[str, Any]:
    """An empty spool, heard of now."""
    empty = {"v": 1, "node": "n", "slot": "0", "clicks": 0, "bytes": 0, "oldest_at": None, "set_aside": 0}
    return empty | {"heard_at": NOW_MS} | changes


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({}, []),
        ({"heard_at": NOW_MS - SILENCE_MS}, []),
        ({"heard_at": NOW_MS + 1_000}, []),
        ({"heard_at": NOW_MS - SILENCE_MS - 1}, [SpoolProblem.SILENT]),
        ({"clicks": 1, "oldest_at": NOW_MS - 5_000}, [SpoolProblem.HOLDS_CLICKS]),
        ({"set_aside": 2}, [SpoolProblem.SET_ASIDE]),
        ({"clicks": 3, "set_aside": 1, "heard_at": 0}, list(SpoolProblem)),
    ],
)
def test_problems(changes: dict[str, Any], problems: list[SpoolProblem]) -> None:
    """Clicks on a disk, silence beyond the limit and pieces set aside are findings; an empty spool that speaks is none."""
    found = judge_spools([record(**changes)], NOW_MS, SILENCE_MS)
    assert sorted(finding.problem for finding in found) == sorted(problems)
    assert all(finding.spool == "n/0" and finding.size > 0 and finding.detail for finding in found)


def test_every_problem_has_a_case() -> None:
    """The table above covers the enum."""
    found = judge_spools([record(clicks=1, set_aside=1, heard_at=0)], NOW_MS, SILENCE_MS)
    assert {finding.problem for finding in found} == set(SpoolProblem)


def test_a_record_of_an_older_version_is_judged() -> None:
    """A record needs a node, a slot and a time; what it does not say is nothing."""
    assert judge_spools([{"node": "n", "slot": "0", "heard_at": NOW_MS}], NOW_MS, SILENCE_MS) == ()


def test_a_spool_has_its_own_id_and_place() -> None:
    """Two of one node and slot are two; each finding names the folder."""
    two = [record(id=f"n/0-{which}", folder=f"host-{which}:/data/spool/0", clicks=1) for which in ("aa", "bb")]
    found = judge_spools(two, NOW_MS, SILENCE_MS)
    assert [finding.spool for finding in found] == ["n/0-aa", "n/0-bb"]
    assert all(f"n (host-{which}:/data/spool/0)" in f.detail for which, f in zip(("aa", "bb"), found, strict=True))
    assert not is_settled(record(id="n/0-aa"), {"n/0-aa": NOW_MS})
    assert is_settled(record(id="n/0-aa"), {"n/0-bb": NOW_MS})


def test_only_a_newer_sign_of_life_settles() -> None:
    """What a spool said before the audit began may be older than its clicks."""
    assert not is_settled(record(), {"n/0": NOW_MS})
    assert is_settled(record(heard_at=NOW_MS + 1), {"n/0": NOW_MS})
    assert is_settled(record(heard_at=NOW_MS - 3_600_000), {"n/0": NOW_MS})
    assert not is_settled(record(heard_at=NOW_MS + 1, clicks=1), {"n/0": NOW_MS})
    assert is_settled(record(), {})
