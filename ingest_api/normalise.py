"""Short URL -> key `host/path`, the form in which links are registered and looked up (docs/adr/0003).

The WHATWG parser `ada_url` does most of it; what is added: trimming of what surrounds a URL in a message, an optional
scheme, http = https, no user info, no trailing dot of the host, single slashes, percent-encoded unreserved characters
decoded, no trailing slash, no query, no fragment. The key of a key is the key. Pure; never raises.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from ada_url import URL

from ingest_api.answers import Refusal

URL_BYTES_MAX: Final = 2048
"""Bytes of a short URL as sent, in UTF-8 (contract)."""

CACHED_URLS_MAX: Final = 8192
CACHED_CHARS_MAX: Final = 256
"""Remembered results of the slow path: at most 8,192 of at most 256 characters, about 6 MB a process."""

_CONTROLS: Final = "".join(map(chr, (*range(0x20), 0x7F)))
_WHITE_SPACE: Final = " \u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
"""What `str.isspace` says yes to, besides controls; written out, since asking for each character takes a tenth of a second."""
_ZERO_WIDTH: Final = (
    "\u00ad\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)
_QUOTES: Final = "\"'`\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u2039\u203a\u00ab\u00bb"
_LINKIFIED: Final = ".,;:!?)]"
"""The punctuation after a URL that SMS apps take for a part of it."""

_BLANK: Final = _CONTROLS + _WHITE_SPACE + _ZERO_WIDTH
_AROUND: Final = _BLANK + "<>" + _QUOTES
_AT_END: Final = _AROUND + _LINKIFIED
_AT_PATH_END: Final = "/'`" + _LINKIFIED
"""What `_AT_END` would take from a finished key: else the key of a key could be another key."""

_COMMON: Final = (
    r"(?:https?://)?"
    r"((?:[a-z0-9]++(?:-[a-z0-9]++)*\.)*[a-z]++"  # no `xn--`, no last label that could be a number
    r"(?:/[A-Za-z0-9_~-]++)+)"
)
"""The common shape, whose key is the text after the scheme: a tenth of the parser's time. What follows a run is never a
character of the run, so nothing is ever given back: possessive, which saves the engine the bookkeeping. Groups are not,
since possessive groups do not match what they should in Python up to 3.11.4 (cpython issue 106052)."""
_CANONICAL: Final = re.compile(_COMMON)
_CANONICAL_LINES: Final = re.compile(rf"^{_COMMON}$", re.MULTILINE)
_ENDS: Final = re.compile(r"[A-Za-z0-9_~-]++(?:\n[A-Za-z0-9_~-]++)*")
"""What follows the last slash of each URL of the common shape."""
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_PORT_FOLLOWS: Final = re.compile(r":[0-9]+(?:[/\\?#]|$)")
_AUTHORITY: Final = re.compile(r"[/\\]*([^/\\?#]*)")
_SLASHES: Final = re.compile(r"/{2,}")
_PERCENT: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_INSIDE_DROPPED: Final = str.maketrans("", "", "\t\r\n")
"""The WHATWG parser drops these anywhere; dropped here first, so that scheme and authority are read as it does."""
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Normalised(NamedTuple):
    """The key of a short URL, or why it has none."""

    key: str
    """`host/path`, `host:port/path` or `host`; empty when refused."""
    refusal: Refusal | None = None


def is_blank(text: str) -> bool:
    """Whether nothing but white space, controls and zero-width characters is there."""
    return not text or not ("!" <= text[0] <= "~" or text.strip(_BLANK))


def normalise(text: str) -> Normalised:
    """The key under which the short URL `text` is registered, or why it cannot be a short URL."""
    if len(text) <= URL_BYTES_MAX and (match := _CANONICAL.fullmatch(text)):
        return tuple.__new__(Normalised, (match[1], None))  # a third of the time that calling the class takes
    if len(text) <= CACHED_CHARS_MAX:
        return _normalise_remembered(text)
    return _normalise_any(text)


def canonical_keys(short_urls: Sequence[str]) -> list[str] | None:
    """The keys of short URLs when all of them have the common shape, else None. At least one URL."""
    text = "\n".join(short_urls)
    if text.count("\n") != len(short_urls) - 1 or max(map(len, short_urls)) > URL_BYTES_MAX:
        return None
    beginning = short_urls[0][: short_urls[0].rfind("/") + 1]
    ends = text[len(beginning) :].split("\n" + beginning)
    if len(ends) == len(short_urls) and _ENDS.fullmatch("\n".join(ends)):  # links of one campaign: half the time
        common = _CANONICAL.fullmatch(beginning + ends[0])
        return None if common is None else [common[1].removesuffix(ends[0]) + end for end in ends]
    keys: list[str] = _CANONICAL_LINES.findall(text)
    return keys if len(keys) == len(short_urls) else None


def _normalise_any(text: str) -> Normalised:
    """`normalise` without the short cuts; the tests compare both."""
    try:
        if len(text) > URL_BYTES_MAX or len(text.encode()) > URL_BYTES_MAX:
            return Normalised("", Refusal.URL_TOO_LONG)
    except UnicodeEncodeError:  # a lone surrogate
        return Normalised("", Refusal.URL_INVALID)
    address = _with_scheme(text.strip(_AROUND).rstrip(_AT_END).translate(_INSIDE_DROPPED))
    if isinstance(address, Refusal):
        return Normalised("", address)
    try:
        url = URL(address)
    except ValueError:
        return Normalised("", Refusal.URL_INVALID)
    host = url.hostname.removesuffix(".")
    if not host or host.endswith("."):
        return Normalised("", Refusal.URL_INVALID)
    return Normalised(f"{host}:{url.port}{_path(url.pathname)}" if url.port else host + _path(url.pathname))


_normalise_remembered = lru_cache(maxsize=CACHED_URLS_MAX)(_normalise_any)


def _with_scheme(text: str) -> str | Refusal:
    """`text` as an absolute http(s) URL without user info."""
    scheme = _SCHEME.match(text)
    if scheme and scheme[1].lower() in {"http", "https"}:
        rest = text[scheme.end() :]
    elif scheme and not _PORT_FOLLOWS.match(text, scheme.end() - 1):
        return Refusal.URL_SCHEME
    else:
        rest = text
        text = f"http://{text}"
    authority = _AUTHORITY.match(rest)
    if authority and "@" in authority[1]:
        return Refusal.URL_USERINFO
    return text


def _path(path: str) -> str:
    """A path from the parser (dot segments are gone) with single slashes and one spelling of each character."""
    path = _SLASHES.sub("/", path)
    if "%" in path:
        path = _PERCENT.sub(_one_spelling, path)
    return path.rstrip(_AT_PATH_END)


def _one_spelling(escape: re.Match[str]) -> str:
    """An unreserved character itself, any other byte with upper-case digits (RFC 3986, 6.2.2)."""
    character = chr(int(escape[1], 16))
    return character if character in _UNRESERVED else escape[0].upper()
