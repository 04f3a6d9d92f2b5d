"""The terminal of `clickledger up`: one line at a time, prefixed and coloured per service.

Rule of this file: a terminal that stands still (Ctrl-S, a pipe nobody reads) must not stop the services behind it, so
lines go through a bounded queue to one printing thread, and are dropped and counted when the queue is full.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from typing import TextIO

_QUEUE_LINES_MAX = 10_000
_CLOSE_SECONDS_MAX = 2.0
_COLOURS = {
    "broker": 34,
    "clickhouse": 33,
    "setup": 37,
    "api": 32,
    "enricher": 36,
    "sink": 35,
    "reporting": 94,
    "deliverer": 95,
}
_PREFIX_WIDTH = 10


def format_line(name: str, text: str, *, colour: bool) -> str:
    """`name | text`, the name padded and, on a terminal, in the service's colour."""
    prefix = f"{name:<{_PREFIX_WIDTH}} |"
    if colour:
        number = _COLOURS.get(name.split("-", maxsplit=1)[0], 1)
        prefix = f"\x1b[{number}m{prefix}\x1b[0m"
    return f"{prefix} {text}"


def readable(text: str) -> str:
    """A service's JSON log line as `10:15:00 WARNING message`; every other line as it is."""
    if not text.startswith("{"):
        return text
    try:
        line = json.loads(text)
        shown = f"{line['time'][11:19]} {line['level']} {line['message']}"
    except (ValueError, KeyError, TypeError):  # JSON of another kind
        return text
    return f"{shown}\n{line['error']}" if "error" in line else shown


class Output:
    """Prints lines from any thread without ever blocking the caller."""

    def __init__(self, stream: TextIO | None = None, *, colour: bool = False) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._colour = colour
        self._lines: queue.Queue[str | None] = queue.Queue(_QUEUE_LINES_MAX)
        self._dropped = 0
        self._thread = threading.Thread(target=self._print_all, name="output", daemon=True)
        self._thread.start()

    def line(self, name: str, text: str) -> None:
        """Print what a service wrote on one line; a traceback in it takes several."""
        for line in readable(text).splitlines():
            self._put(format_line(name, line, colour=self._colour))

    def say(self, text: str) -> None:
        """Print one line of our own."""
        self._put(text)

    def close(self) -> None:
        """Print what is queued, for a bounded time."""
        try:
            self._lines.put(None, timeout=_CLOSE_SECONDS_MAX)
        except queue.Full:
            return
        self._thread.join(_CLOSE_SECONDS_MAX)

    def _put(self, text: str) -> None:
        try:
            self._lines.put_nowait(text)
        except queue.Full:
            self._dropped += 1

    def _print_all(self) -> None:
        while (text := self._lines.get()) is not None:
            try:
                self._stream.write(self._note_of_dropped() + text + "\n")
                self._stream.flush()
            except (OSError, ValueError):  # the reader has gone: keep emptying the queue in silence
                continue

    def _note_of_dropped(self) -> str:
        dropped, self._dropped = self._dropped, 0
        return f"({dropped} lines were not printed: the terminal did not take them)\n" if dropped else ""
