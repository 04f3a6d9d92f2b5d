"""`clickledger reprocess` on a running stack: what was stored too early counts once, whoever runs it, killed or not."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.full_stack import FullStack
from tests.support.pipeline import audit_is_clean, command_env, eventually, query, run, succeed
from tests.support.raw_records import Bytes, unlinked_click, write

PARTITIONS = 6


class Shop:
    """A tenant of one test, with a key, and raw records that another producer writes for it."""

    def __init__(self, stack: FullStack, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        self.tenant = f"shop-{secrets.token_hex(4)}"
        self.short_url = f"http://{self.tenant}.example/sale"
        succeed(stack, "tenants", "create", self.tenant)
        self._key = succeed(stack, "keys", "create", "--tenant", self.tenant, "--grants", "admin").strip()

    def register_link(self) -> None:
        """Register link and promotion."""
        for kind, text in (
            ("promotions", "promotion_id,name,delivered\nsale,Sale,100\n"),
            ("links", f"short_url,promotion_id\n{self.short_url},sale\n"),
        ):
            file = self.folder / f"{kind}.csv"
            file.write_text(text)
            succeed(self.stack, kind, "load", str(file), "--key", self._key, "--url", self.stack.ready["api"], "--wait")

    def write(self, records: list[Bytes]) -> None:
        """Append raw records, one partition after the other, and wait until they are rows."""
        pairs = [(n % PARTITIONS, record) for n, record in enumerate(records)]
        asyncio.run(write(self.stack.ready["kafka"], "clicks.raw", pairs))
        audit_is_clean(self.stack)

    def write_unlinked(self, count: int) -> None:
        """Append clicks on a link that is not registered yet."""
        self.write([unlinked_click(self.tenant, self.short_url, n % PARTITIONS) for n in range(count)])

    def arguments(self, *more: str, status: str = "rejected") -> list[str]:
        """The command's arguments."""
        return ["--status", status, "--tenant", self.tenant, "--json", *more]

    def reprocess(self, *more: str, status: str = "rejected", exit_status: int = 0) -> dict[str, Any]:
        """Run it to its end; what it prints."""
        done = run(self.stack, "reprocess", *self.arguments(*more, status=status))
        assert done.returncode == exit_status, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def rows(self) -> list[Any]:
        """All rows of the tenant."""
        columns = "concat(stream, '/', toString(raw_partition), '/', toString(raw_offset)) AS position, *"
        return query(self.stack, f"SELECT {columns} FROM clicks WHERE tenant = '{self.tenant}' ORDER BY raw_offset")

    def replays(self) -> dict[str, list[str]]:
        """The statuses of the rows that replay each position."""
        found: dict[str, list[str]] = {}
        for row in self.rows():
            if row["replay_of"]:
                found.setdefault(row["replay_of"], []).append(row["status"])
        return found

    def clicks_in_reports(self) -> int:
        """What the click-through report counts."""
        found = query(self.stack, f"SELECT sum(clicks) AS n FROM ctr_daily WHERE tenant = '{self.tenant}'")
        return int(found[0]["n"])


@pytest.fixture
def shop(full_stack: FullStack, tmp_path: Path) -> Shop:
    """A tenant of this test."""
    return Shop(full_stack, tmp_path)


def test_a_link_that_is_registered_too_late(shop: Shop) -> None:
    """Rejected until it is known; then each click counts once, with its id and time, and no run adds another."""
    shop.write_unlinked(8)
    before = {row["position"]: row for row in shop.rows()}
    assert {(row["status"], row["reason"]) for row in before.values()} == {("rejected", "unknown_link")}
    assert shop.reprocess("--limit", "1")["sent"] == 1
    audit_is_clean(shop.stack)
    assert list(shop.replays().values()) == [["rejected"]]  # still unknown: a row of its own, which can be sent again

    shop.register_link()
    dry = shop.reprocess("--dry-run", "--reason", "unknown_link")
    assert (dry["would_send"], dry["sent"], dry["replayed_before"]) == (8, 0, 1)
    assert shop.reprocess("--reason", "unknown_link") == dry | {"dry_run": False, "sent": 8, "would_send": 0}
    audit_is_clean(shop.stack)
    rows = shop.rows()
    accepted = [row for row in rows if row["status"] == "accepted"]
    assert {row["transaction_id"] for row in accepted} == {row["transaction_id"] for row in before.values()}
    assert len(accepted) == 8
    for row in accepted:
        assert (row["source"], row["suspect"], row["promotion_id"]) == ("reprocess", True, "sale")
        assert row["received_at"] in {each["received_at"] for each in before.values()}
        replayed = next(each for each in rows if each["position"] == row["replay_of"])
        assert (replayed["transaction_id"], replayed["status"]) == (row["transaction_id"], "rejected")
    assert shop.clicks_in_reports() == 8
    assert shop.reprocess() == {
        "dry_run": False, "sent": 0, "would_send": 0, "replayed_before": 9, "unsendable": {},
    }  # fmt: skip


@pytest.mark.parametrize("point", ["after:1", "before:4"])
def test_killed_in_the_middle_and_run_again(shop: Shop, point: str) -> None:
    """Kill -9 before or after a batch: the next run sends the others, and each row has exactly one replay."""
    shop.write_unlinked(24)
    shop.register_link()
    command = [sys.executable, "-m", "tests.support.reprocess_faults", point, *shop.arguments()]
    killed = subprocess.run(command, env=command_env(shop.stack), capture_output=True, timeout=120, check=False)
    assert killed.returncode == -9, killed.stderr
    shop.reprocess()
    audit_is_clean(shop.stack)
    assert list(shop.replays().values()) == [["accepted"]] * 24


def test_two_at_the_same_time_do_not_double(shop: Shop) -> None:
    """Whatever both send, one replay of each row stands and counts; a second one is a duplicate, rejected ones too."""
    shop.write_unlinked(30)
    command = [sys.executable, "-m", "clickledger", "reprocess", *shop.arguments()]
    both = [subprocess.Popen(command, env=command_env(shop.stack), stdout=subprocess.PIPE) for _ in range(2)]
    printed = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(json.loads(text)["sent"] for text in printed) >= 30
    audit_is_clean(shop.stack)
    for statuses in shop.replays().values():
        assert sorted(statuses) in (["rejected"], ["duplicate", "rejected"])
    assert len(shop.replays()) == 30
    shop.register_link()
    assert shop.reprocess()["sent"] == 30
    eventually(lambda: shop.clicks_in_reports() == 30, "the clicks in the report")
    audit_is_clean(shop.stack)
    assert len([row for row in shop.rows() if row["status"] == "accepted"]) == 30


def test_what_can_never_be_sent_is_counted_by_reason(shop: Shop) -> None:
    """Bytes that are no click stay where they are; a click under a wrong key is mended by its row's id."""
    misplaced = unlinked_click(shop.tenant, shop.short_url, 0)
    named = b'{"tenant":"%b"' % shop.tenant.encode()
    shop.write([Bytes(b"k", named + b"}"), Bytes(None, named + b',"v":2}'), misplaced._replace(key=b"another")])
    shop.register_link()
    found = shop.reprocess(status="malformed", exit_status=1)
    assert (found["sent"], found["unsendable"]) == (1, {"unknown_version": 2})
    audit_is_clean(shop.stack)
    assert list(shop.replays().values()) == [["accepted"]]
    assert shop.reprocess(status="malformed", exit_status=1)["replayed_before"] == 1
