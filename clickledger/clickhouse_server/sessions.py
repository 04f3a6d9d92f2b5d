"""Sessions that a client names by `session_id`, so that SET, USE and temporary tables last from one request to the next.

Drivers send a session_id with every request and almost never need it, so an engine session is opened only for the first
statement that leaves something behind (`Command.is_stateful`); until then the name alone is remembered.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from clickledger.clickhouse_server.engine import Session
from clickledger.clickhouse_server.errors import SESSION_IS_LOCKED, SESSION_NOT_FOUND, refusal

SESSIONS_MAX: Final = 1000  # names remembered; beyond it the one unused for longest goes


@dataclass(slots=True)
class NamedSession:
    """A client's session; `session` is None as long as nothing had to be remembered."""

    session: Session | None = None
    expires_at: float = 0.0
    """Seconds of the monotonic clock."""
    is_locked: bool = False

    def close(self) -> None:
        """Close the engine's session, if there is one."""
        if self.session is not None:
            self.session.close()
            self.session = None


class SessionStore:
    """The named sessions of all clients; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[str, NamedSession] = {}

    @contextmanager
    def hold(self, session_id: str, seconds: int, *, must_exist: bool, ends: bool) -> Iterator[NamedSession]:
        """The session for the time of one statement; raises 373 while another statement has it, 372 if it must exist."""
        held = self._take(session_id, must_exist=must_exist)
        try:
            yield held
        finally:
            with self._lock:
                held.is_locked = False
                held.expires_at = time.monotonic() + seconds
                if ends:
                    self._sessions.pop(session_id, None)
            if ends:
                held.close()

    def _take(self, session_id: str, *, must_exist: bool) -> NamedSession:
        with self._lock:
            gone = self._expired(time.monotonic())
            held = self._sessions.get(session_id)
            is_busy = held is not None and held.is_locked
            if held is None and not must_exist:
                held = self._sessions[session_id] = NamedSession()
            if held is not None:
                held.is_locked = True
        for session in gone:
            session.close()
        if is_busy:
            raise refusal(SESSION_IS_LOCKED, f"Session {session_id} is locked by a concurrent client")
        if held is None:
            raise refusal(SESSION_NOT_FOUND, f"Session {session_id} not found")
        return held

    def _expired(self, now: float) -> list[NamedSession]:
        """Remove and return what has expired and, beyond SESSIONS_MAX, what would expire first (under the lock)."""
        idle = sorted((session.expires_at, name) for name, session in self._sessions.items() if not session.is_locked)
        surplus = max(0, len(self._sessions) - SESSIONS_MAX)
        return [self._sessions.pop(name) for at, (expires, name) in enumerate(idle) if expires <= now or at < surplus]

    def close(self) -> None:
        """Close all sessions; called when no statement runs any more."""
        with self._lock:
            for session in self._sessions.values():
                session.close()
            self._sessions.clear()
