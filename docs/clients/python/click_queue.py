"""Report clicks to Clickledger from an app's backend or a desktop app: an offline queue on disk. Standard library only.

    queue = ClickQueue("clicks.db", "http://127.0.0.1:8080", key)
    queue.add("http://shortdomain/dsltrack/employee/j460A8", user_agent=..., ip_address=...)
    wait_s = queue.flush()   # call again after so many seconds; None: the queue is empty

A click is on disk before `add` returns and leaves the disk only after a final answer. It is sent with the same
Idempotency-Key however often, so that it counts once.
"""

from __future__ import annotations

import http.client
import json
import random
import sqlite3
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable

CLICKS_MAX = 10_000  # kept while offline; beyond it the oldest goes, counted in `dropped`
TIMEOUT_S = 10.0
BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
PATH = "/campaignapi/resources/v3/shortlinkclicks"


class NotAuthorized(Exception):
    """The key is not valid (any more): the clicks stay in the queue; set `key` and flush again."""


class ClickQueue:
    """One queue file; use it from one thread."""

    def __init__(
        self, path: str, url: str, key: str, on_refused: Callable[[str, str, str], None] | None = None
    ) -> None:
        self.url, self.key = url.rstrip("/") + PATH, key
        self.on_refused = on_refused or (lambda *_: None)
        self.dropped = 0
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
            status, answer, retry_after_s = self._send(click_id, body)
            if status == 401:
                raise NotAuthorized(answer.get("description", ""))
            if status is None or status == 429 or status >= 500:
                backoff_s = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
                self._failures += 1
                return max(retry_after_s, backoff_s * random.uniform(0.5, 1.0))
            # Anything else is final: 200 with an id, 200 with code 1010 (will never be recorded), or refused for good.
            self._failures = 0
            self._db.execute("DELETE FROM clicks WHERE n = ?", (n,))
            if "transaction-id" not in answer:
                self.on_refused(json.loads(body)["short-url"], str(answer.get("code")), str(answer.get("description")))
        return None

    def _send(self, click_id: str, body: str) -> tuple[int | None, dict[str, object], float]:
        """Status (None: no answer), body and Retry-After of one attempt."""
        headers = {
            "authorization": f"Bearer {self.key}",
            "content-type": "application/json",
            "idempotency-key": click_id,
        }
        request = urllib.request.Request(self.url, body.encode(), headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                return response.status, json.load(response), 0.0
        except urllib.error.HTTPError as exc:
            with exc:
                after = exc.headers.get("retry-after", "")
                try:
                    answer = json.load(exc)
                except ValueError:  # a proxy's page
                    answer = {}
                return exc.code, answer if isinstance(answer, dict) else {}, float(after) if after.isdigit() else 0.0
        except (OSError, ValueError, http.client.HTTPException):  # no connection, a time-out, an answer cut short
            return None, {}, 0.0
