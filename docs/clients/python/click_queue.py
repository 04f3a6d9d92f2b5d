"""Report clicks to Clickledger from an app's backend or a desktop app: an offline queue on disk. Standard library only.

    queue = ClickQueue("clicks.db", "http://127.0.0.1:8080", key)
    queue.add("http://shortdomain/dsltrack/employee/j460A8", user_agent=..., ip_address=...)
    wait_s = queue.flush()   # call again after so many seconds, `queue.last_error` says why; None: the queue is empty

A click is on disk before `add` returns and leaves the disk only after a final answer, which the body alone tells. It is
sent with the same Idempotency-Key however often, so that it counts once.
"""

from __future__ import annotations

import http.client
import json
import logging
import random
import sqlite3
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable

CLICKS_MAX = 10_000  # kept while offline; beyond it the first goes, counted in `dropped`
TIMEOUT_S = 10.0
BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
PATH = "/campaignapi/resources/v3/shortlinkclicks"
REFUSED = {"499", "1001", "1002", "1003", "1010"}  # codes that are final: this click will never be recorded
NOT_AUTHORIZED = {"430", "498"}  # nothing is wrong with the click


class NotAuthorized(Exception):
    """The key is not valid (any more): the clicks stay in the queue; set `key` and flush again."""


def log_refused(short_url: str, code: str, description: str) -> None:
    """Say that a click is lost for good."""
    logging.getLogger(__name__).warning("click on %s refused: %s %s", short_url, code, description)


class ClickQueue:
    """One queue file; use it from one thread."""

    def __init__(
        self, path: str, url: str, key: str, on_refused: Callable[[str, str, str], None] = log_refused
    ) -> None:
        self.url, self.key, self.on_refused = url.rstrip("/") + PATH, key, on_refused
        self.dropped = 0
        self.last_error = ""  # why the last try was no success; empty after one that was
        self._failures = 0
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS clicks (n INTEGER PRIMARY KEY, id TEXT NOT NULL, body TEXT NOT NULL)"
        )

    def __len__(self) -> int:
        """Clicks that wait."""
        (count,) = self._db.execute("SELECT count(*) FROM clicks").fetchone()
        return int(count)

    def add(self, short_url: str, user_agent: str | None = None, ip_address: str | None = None) -> None:
        """Keep a click that happens now."""
        fields = {"short-url": short_url, "user-agent": user_agent, "ip-address": ip_address}
        body = {name: text for name, text in fields.items() if text is not None}
        body["clicked-at"] = int(time.time() * 1000)  # it may be sent much later
        self._db.execute("INSERT INTO clicks (id, body) VALUES (?, ?)", (str(uuid.uuid4()), json.dumps(body)))
        surplus = len(self) - CLICKS_MAX
        if surplus > 0:
            self._db.execute("DELETE FROM clicks WHERE n IN (SELECT n FROM clicks ORDER BY n LIMIT ?)", (surplus,))
            self.dropped += surplus

    def flush(self) -> float | None:
        """Send what waits, oldest first; the seconds until it is worth trying again, None when nothing waits.

        Raises NotAuthorized.
        """
        while row := self._db.execute("SELECT n, id, body FROM clicks ORDER BY n LIMIT 1").fetchone():
            n, click_id, body = row
            answer, self.last_error, retry_after_s = self._send(click_id, body)
            code, description = str(answer.get("code")), str(answer.get("description"))
            if code in NOT_AUTHORIZED:
                raise NotAuthorized(f"{code} {description}")
            if "transaction-id" not in answer and code not in REFUSED:
                # Not now, or no answer of Clickledger's at all: keep the click, behind the others, which may get through.
                self._db.execute("UPDATE clicks SET n = (SELECT max(n) + 1 FROM clicks) WHERE n = ?", (n,))
                backoff_s = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
                self._failures += 1
                return max(retry_after_s, backoff_s * random.uniform(0.5, 1.0))
            if code in REFUSED:
                self.on_refused(json.loads(body)["short-url"], code, description)
            self._failures, self.last_error = 0, ""
            self._db.execute("DELETE FROM clicks WHERE n = ?", (n,))
        return None

    def _send(self, click_id: str, body: str) -> tuple[dict[str, object], str, float]:
        """One attempt: the JSON object in the answer (else an empty one), how the answer reads, its Retry-After."""
        headers = {
            "authorization": f"Bearer {self.key}",
            "content-type": "application/json",
            "idempotency-key": click_id,
        }
        request = urllib.request.Request(self.url, body.encode(), headers, method="POST")
        try:
            try:
                response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
            except urllib.error.HTTPError as exc:
                response = exc  # an answer like any other
            with response:
                text = response.read().decode(errors="replace")
        except (OSError, ValueError, http.client.HTTPException) as exc:  # no connection, a time-out, a broken answer
            return {}, repr(exc), 0.0
        after = response.headers.get("retry-after", "")
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):  # a proxy's page
            answer = None
        return (
            answer if isinstance(answer, dict) else {},
            f"HTTP {response.status}: {text[:200]}",
            float(after) if after.isdecimal() else 0.0,
        )
