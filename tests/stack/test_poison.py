"""Any bytes in both topics, among clicks of the API: nothing stops, and each 200 is exactly one accepted row.

Few records here; as many as you like with `POISON_RECORDS=10000 POISON_SEED=7 .venv/bin/python -m pytest
tests/stack/test_poison.py`. A harness with a stack of its own calls `tests.support.poison.poison`.
"""

from __future__ import annotations

import os

from tests.support.figures import Figure
from tests.support.full_stack import FullStack
from tests.support.pipeline import Sending, audit_is_clean, count_rows, query, run
from tests.support.poison import poison

COUNT = int(os.environ.get("POISON_RECORDS", "400"))
SEED = int(os.environ.get("POISON_SEED", "1"))


def test_any_bytes_in_both_topics(full_stack: FullStack, figure: Figure) -> None:
    """Raw ones are rows, enriched ones are dropped, `send --verify` and the audit find nothing; reprocessing neither."""
    ready = full_stack.ready
    sending = Sending(full_stack, "--count", "600", "--rate", "100")
    try:
        sending.wait_for_rows()
        stream = query(full_stack, "SELECT any(stream) AS stream FROM clicks")[0]["stream"]
        before = count_rows(full_stack)
        written = poison(ready["kafka"], stream, ready["tenant"], partitions=6, count=COUNT, seed_number=SEED)
        sending.proof()
    finally:
        sending.close()
    found = audit_is_clean(full_stack)
    assert count_rows(full_stack) > before
    malformed = sum(partition["malformed"] for partition in found["partitions"])
    assert malformed > COUNT // 8
    figure(f"{written} foreign records among 600 clicks: {malformed} malformed rows in the table, audit clean")
    assert run(full_stack, "reprocess", "--status", "malformed").returncode in (0, 1)
    audit_is_clean(full_stack)
