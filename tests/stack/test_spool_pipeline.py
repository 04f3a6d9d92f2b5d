"""A broker that freezes under load, through the whole pipeline: every click is a 200, and every 200 is one row."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.clickhouse import http_ok
from tests.support.full_stack import FullStack
from tests.support.health import metric
from tests.support.pipeline import Sending, audit_is_clean, eventually, is_whole, query, run

ROUNDS_MAX = 3
"""What lies in the dead API's socket may be lost with it: then a round proves nothing, and another follows."""


def test_frozen_broker_and_killed_api(full_stack: FullStack) -> None:
    """SIGSTOP the broker, kill -9 the API with clicks in its socket, SIGCONT: originals and copies are one row each."""
    audit_is_clean(full_stack)
    for _ in range(ROUNDS_MAX):
        before = duplicates(full_stack)
        freeze_and_kill(full_stack)
        found = audit_is_clean(full_stack)
        assert found["spools"]
        assert not found["spool_findings"]
        if duplicates(full_stack) > before:
            return
    pytest.fail(f"in {ROUNDS_MAX} rounds no original met its copy: nothing was proved")


def freeze_and_kill(stack: FullStack) -> None:
    """One round under load: nobody hears of it but whose connection the API's death cut."""
    sending = Sending(stack, "--rate", "100", "--count", "0", "--duration", "600", "--timeout", "5")
    try:
        sending.wait_for_rows()
        broker = int(stack.ready["pids"]["broker"])
        before = sent_and_spooled(stack)
        os.kill(broker, signal.SIGSTOP)
        try:
            eventually(
                lambda: sent_and_spooled(stack) > before,
                "clicks are in the broker's socket, their time-out has passed, their copies are on disk",
            )
            os.kill(stack.ready["pids"]["api"], signal.SIGKILL)
            port = int(stack.ready["api"].rpartition(":")[2])
            eventually(lambda: http_ok(port, "/readyz"), "the API answers again, without Kafka")
        finally:
            os.kill(broker, signal.SIGCONT)
        eventually(lambda: is_whole(stack), "everything is ready")
        sending.stop()
        proof = sending.proof()
    finally:
        sending.close()
    assert not [code for code in proof["by_code"] if code.startswith("5")]


def sent_and_spooled(stack: FullStack) -> float:
    """Clicks that the API sent to Kafka, that were not acknowledged in time, and that are on disk since."""
    name = 'clickledger_api_spooled_clicks_total{reason="outcome_unknown"'
    return metric(stack.data, "api", stack.ready["pids"]["api"], name)


def duplicates(stack: FullStack) -> int:
    """Rows of copies."""
    return int(query(stack, "SELECT count() AS n FROM clicks WHERE reason = 'replayed'")[0]["n"])


def test_spools_are_listed(full_stack: FullStack) -> None:
    """The command shows each spool of the catalog, reads those on this disk, and gives up none that is alive."""
    listed = run(full_stack, "spool", "list")
    assert listed.returncode == 0
    assert "/0" in listed.stdout
    assert run(full_stack, "spool", "verify").returncode == 0
    spool = listed.stdout.splitlines()[-1].split()[0]
    forgotten = run(full_stack, "spool", "forget", spool, "--reason", "test")
    assert (forgotten.returncode, "is not gone" in forgotten.stderr) == (1, True)
    held = run(full_stack, "spool", "replay", str(full_stack.data / "api" / "spool" / "0"))
    assert (held.returncode, "running API process" in held.stderr) == (1, True)
