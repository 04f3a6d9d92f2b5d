"""Logging in and out: a key, or a one-time link, becomes a session; nothing but a page of ours may ask for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

from fastapi import Request

from reporting.dashboard.attempts import Attempts
from reporting.dashboard.links import LinkFault, LoginLinks
from reporting.metrics import refused_total
from reporting.sessions import Sessions, is_same_origin
from reporting.state import Directory
from shared.keys import FoundKey, Grant, digest_of, key_behind

FORM_BYTES_MAX: Final = 4_096
"""A key has 43 characters, a one-time token about 250."""
HOME: Final = "/dashboard"


class LoginFault(StrEnum):
    """Why somebody is not logged in; each is a reason of the counter, and has a text for the page."""

    CROSS_SITE = "login_cross_site"
    MALFORMED = "login_malformed"
    TOO_OFTEN = "login_too_often"
    NOT_READY = "login_not_ready"
    WRONG_KEY = "login_wrong_key"
    NO_GRANT = "login_no_grant"


TEXTS: Final[Mapping[LoginFault | LinkFault, tuple[HTTPStatus, str]]] = {
    LoginFault.CROSS_SITE: (HTTPStatus.FORBIDDEN, "This was not sent from this page. Log in here."),
    LoginFault.MALFORMED: (HTTPStatus.BAD_REQUEST, "That was no form of this page."),
    LoginFault.TOO_OFTEN: (
        HTTPStatus.TOO_MANY_REQUESTS,
        "Too many failed attempts from your address. Wait five minutes.",
    ),
    LoginFault.NOT_READY: (HTTPStatus.SERVICE_UNAVAILABLE, "The keys are not loaded yet. Try again in a moment."),
    LoginFault.WRONG_KEY: (HTTPStatus.UNAUTHORIZED, "No valid key: it is unknown, revoked or has expired."),
    LoginFault.NO_GRANT: (HTTPStatus.FORBIDDEN, "This key may not read reports: it needs the grant “reports”."),
    LinkFault.UNKNOWN: (HTTPStatus.UNAUTHORIZED, "This login link is not valid here. Make a new one."),
    LinkFault.ENDED: (HTTPStatus.UNAUTHORIZED, "This login link has ended: it lasts ten minutes. Make a new one."),
    LinkFault.USED: (HTTPStatus.UNAUTHORIZED, "This login link was used already: it works once. Make a new one."),
    LinkFault.ELSEWHERE: (
        HTTPStatus.UNAUTHORIZED,
        "This login link was made at another machine. Make a new one, or log in with a key.",
    ),
    LinkFault.TOO_MANY: (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Too many login links of this key were used. Try again in ten minutes.",
    ),
}
_NOT_THE_VISITORS: Final = (LinkFault.TOO_MANY, LinkFault.ELSEWHERE)
"""The link is a true one, so nobody is guessing."""


class LoggedIn(NamedTuple):
    """A session that begins."""

    cookie: str
    seconds: int
    is_https: bool
    next: str
    """where the browser goes on"""


@dataclass(frozen=True, slots=True)
class Login:
    """Judges what a login form holds."""

    catalog: Directory
    sessions: Sessions
    links: LoginLinks
    attempts: Attempts

    async def judge(self, request: Request) -> LoggedIn | LoginFault | LinkFault:
        """The session for a posted form, or why there is none, which is counted."""
        found = await self._judge(request)
        if not isinstance(found, LoggedIn):
            refused_total.labels(str(found)).inc()
        return found

    async def _judge(self, request: Request) -> LoggedIn | LoginFault | LinkFault:
        if not is_same_origin(request.headers):
            return LoginFault.CROSS_SITE
        form = await _form(request)
        if form is None:
            return LoginFault.MALFORMED
        self.catalog.refresh()
        if not self.catalog.is_ready:
            return LoginFault.NOT_READY
        now_ms = time.time_ns() // 1_000_000
        if "once" in form:
            digest = await asyncio.to_thread(self.links.take, form["once"], now_ms)
        else:
            digest = digest_of(form["key"].strip().encode())
        fault = digest if isinstance(digest, LinkFault) else self._fault_of(digest, now_ms)
        if fault is not None:
            return self._counted(fault, request.client.host if request.client else "")
        return LoggedIn(
            self.sessions.begin(str(digest), now_ms),
            self.sessions.lasts_ms // 1000,
            is_https(request.headers),
            next_of(form.get("next", "")),
        )

    def _counted(self, fault: LoginFault | LinkFault, address: str) -> LoginFault | LinkFault:
        """What to answer to a fault. A right key never comes here: many may share the address of a proxy with a guesser."""
        if fault in _NOT_THE_VISITORS:
            return fault
        now_s = time.monotonic()
        if self.attempts.wait_s(address, now_s):
            return LoginFault.TOO_OFTEN
        self.attempts.failed(address, now_s)
        return fault

    def _fault_of(self, digest: str, now_ms: int) -> LoginFault | None:
        found = key_behind(self.catalog, digest)
        if not isinstance(found, FoundKey) or found.is_expired(now_ms):
            return LoginFault.WRONG_KEY
        return None if found.has(Grant.REPORTS) else LoginFault.NO_GRANT


def is_https(headers: Mapping[str, str]) -> bool:
    """Whether the browser sees us by https, as the Origin of a page of ours says; a proxy may speak http to us."""
    return headers.get("origin", "").startswith("https://")


def next_of(text: str) -> str:
    """Where to go after logging in: the dashboard with the state that its address had, and nowhere else."""
    try:
        parts = urlsplit(text)
    except ValueError:  # a broken host
        return HOME
    return text if not parts.scheme and not parts.netloc and parts.path == HOME and text.isprintable() else HOME


async def _form(request: Request) -> dict[str, str] | None:
    """The fields of a URL-encoded form with a key or a token; None for anything else."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > FORM_BYTES_MAX:
            return None
    if request.headers.get("content-type", "").partition(";")[0] != "application/x-www-form-urlencoded":
        return None
    try:
        form = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=4, errors="strict")
    except ValueError:  # not ASCII, too many fields, or no UTF-8 behind the percent signs
        return None
    fields = {name: values[0] for name, values in form.items()}
    return fields if ("key" in fields) != ("once" in fields) else None
