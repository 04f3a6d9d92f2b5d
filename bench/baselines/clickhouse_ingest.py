"""ClickHouse's own ingest: ready bodies over some connections, nothing else to do."""

from __future__ import annotations

import http.client
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode, urlsplit

INSERT_S_MAX = 60.0


def ingest(url: str, table: str, bodies: Sequence[bytes], settings: Mapping[str, Any], connections: int) -> float:
    """Insert every body, a new token each; the seconds that it took. Raises RuntimeError with ClickHouse's words."""
    call = uuid.uuid4().hex
    waiting = list(enumerate(bodies))
    problems: list[str] = []

    def work() -> None:
        address = urlsplit(url)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=INSERT_S_MAX)
        headers = {"X-ClickHouse-User": address.username or "", "X-ClickHouse-Key": address.password or ""}
        try:
            while not problems:
                try:
                    number, body = waiting.pop()
                except IndexError:
                    return
                given = {
                    **settings,
                    "query": f"INSERT INTO {table} FORMAT JSONEachRow",
                    "database": address.path.strip("/"),
                    "insert_deduplication_token": f"{call}-{number}",
                }
                connection.request("POST", f"/?{urlencode(given)}", body, headers)
                answer = connection.getresponse()
                text = answer.read()
                if answer.status != http.client.OK:
                    problems.append(text.decode(errors="replace"))
        except (OSError, http.client.HTTPException) as exc:
            problems.append(repr(exc))
        finally:
            connection.close()

    began = time.monotonic()
    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise RuntimeError(problems[0])
    return time.monotonic() - began
