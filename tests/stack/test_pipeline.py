"""The whole pipeline as its users see it: one click over HTTP, found by SQL and by live consumers."""

from __future__ import annotations

import http.client
import json
import time
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.figures import Figure
from tests.support.full_stack import FullStack
from tests.support.pipeline import audit_is_clean, count_rows, eventually, load_example_link, query, succeed

# The published page's example, byte for byte, line breaks and the agent's leading space included.
EXAMPLE_BODY = b"""{
  "short-url":"http://shortdomain/dsltrack/employee/j460A8",
  "user-agent":" Mozilla/5.0 (Windows NT 6.1; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/64.0.3282.186 Safari/537.36",
  "ip-address":"203.199.178.211"
}"""
EXAMPLE_AGENT = json.loads(EXAMPLE_BODY)["user-agent"].strip()
CLICK_PATH = "/campaignapi/resources/v3/shortlinkclicks"


def post_click(stack: FullStack, body: bytes) -> tuple[int, dict[str, Any]]:
    """POST a click with the stack's key; status and JSON of the answer."""
    ready = stack.ready
    connection = http.client.HTTPConnection(urlsplit(ready["api"]).netloc, timeout=20)
    headers = {"authorization": f"Bearer {ready['key']}", "content-type": "application/json"}
    try:
        connection.request("POST", CLICK_PATH, body, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def rows_of(stack: FullStack, transaction_id: str) -> list[Any]:
    """All rows with this id, every column."""
    return query(stack, f"SELECT * FROM clicks WHERE transaction_id = '{transaction_id}'")


def test_the_published_example_becomes_a_row(full_stack: FullStack, tmp_path: Path, figure: Figure) -> None:
    """The example's bytes are answered 200 and found by SQL, enriched; live consumers see the same click."""
    load_example_link(full_stack, tmp_path)
    began = time.monotonic()
    status, answer = post_click(full_stack, EXAMPLE_BODY)
    answered_s = time.monotonic() - began
    assert status == 200
    assert list(answer) == ["transaction-id"]
    transaction_id = answer["transaction-id"]
    assert str(uuid.UUID(transaction_id)) == transaction_id
    eventually(lambda: bool(rows_of(full_stack, transaction_id)), "the click's row")
    figure(f"200 after {1000 * answered_s:.1f} ms, row visible after {time.monotonic() - began:.2f} s")

    (row,) = rows_of(full_stack, transaction_id)
    expected = {
        "status": "accepted",
        "reason": "",
        "suspect": False,
        "tenant": full_stack.ready["tenant"],
        "source": "api",
        "short_url": "http://shortdomain/dsltrack/employee/j460A8",
        "link": "shortdomain/dsltrack/employee/j460A8",
        "promotion_id": "employee",
        "campaign_id": "c-7",
        "deployment_id": "d-9",
        "link_name": "offer",
        "recipient": "919800000001",
        "long_url": "https://shop.example/offer",
        "user_agent": EXAMPLE_AGENT,
        "browser": "Chrome",
        "os": "Windows",
        "os_version": "7",
        "device_type": "pc",
        "resolution": "",
        "is_bot": False,
        "ip": "203.199.178.211",
        "ip_kind": "public",
        "country": "IN",
        "raw": "",
    }
    assert {name: row[name] for name in expected} == expected
    assert row["browser_version"].split(".")[0] == "64"
    assert row["received_at"] == row["clicked_at"]
    assert row["received_at"] <= row["enriched_at"] <= row["inserted_at"] < row["expires_at"]
    clicks = query(full_stack, "SELECT count() AS clicks FROM clicks WHERE promotion_id = 'employee'")[0]["clicks"]
    tail = succeed(full_stack, "tail", "--promotion", "employee", "--since", "1h", "-n", str(clicks), "--json")
    (live,) = [each for each in map(json.loads, tail.splitlines()) if each["transaction_id"] == transaction_id]
    assert (live["raw_partition"], live["raw_offset"]) == (row["raw_partition"], int(row["raw_offset"]))


def test_an_unknown_link_makes_no_row(full_stack: FullStack) -> None:
    """A refusal carries the published code and no id, and nothing is stored for it."""
    audit_is_clean(full_stack)  # what other tests sent is stored by then
    before = count_rows(full_stack)
    status, answer = post_click(full_stack, b'{"short-url":"http://shortdomain/never/registered"}')
    assert (status, answer["code"]) == (499, "1003")
    assert answer["description"].startswith("Promotion does not exist for the URL given.")
    assert "transaction-id" not in answer
    audit_is_clean(full_stack)
    assert count_rows(full_stack) == before
