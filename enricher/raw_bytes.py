"""The column `raw`: the original bytes of a record that is not accepted, as text that any JSON reader takes.

* UTF-8 goes in as it is (JSON escapes what must be escaped);
* bytes that are not UTF-8, that escaping would blow up (control characters), or that begin like one of the forms below,
  as `base64:` and the bytes in base64;
* a record beyond the limit as `cut:<bytes>:<sha256>:base64:` and the first half of the limit: our API never writes such a record;
* for a tenant that does not store addresses, JSON is written again with the address truncated or left out; where that
  is impossible, `withheld:<bytes>:<sha256>` alone.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

import orjson

from enricher.addresses import Privacy, choose_address, truncated

_PREFIXES: Final = ("base64:", "cut:", "withheld:")
_GROWTH_MAX: Final = 4 / 3
"""What base64 costs; text that JSON makes longer than this is stored as base64."""


def keep_raw(value: bytes, privacy: Privacy, bytes_max: int) -> str:
    """The text for the column `raw`, at most 4/3 of `bytes_max` and 100 bytes once it is JSON."""
    if len(value) > bytes_max:
        digest = hashlib.sha256(value).hexdigest()
        return f"cut:{len(value)}:{digest}:base64:{_base64(value[: bytes_max // 2])}"
    if privacy is not Privacy.STORE:
        written = _without_address(value, privacy)
        if written is None:
            return f"withheld:{len(value)}:{hashlib.sha256(value).hexdigest()}"
        value = written
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return "base64:" + _base64(value)
    if text.startswith(_PREFIXES) or len(orjson.dumps(text)) > len(value) * _GROWTH_MAX + 100:
        return "base64:" + _base64(value)
    return text


def restore_raw(text: str) -> bytes:
    """The bytes that `keep_raw` was given. Raises ValueError for a record that was cut or withheld."""
    if text.startswith("base64:"):
        return base64.b64decode(text[7:], validate=True)
    if text.startswith(_PREFIXES):
        raise ValueError(f"not the whole record: {text[:40]}")
    return text.encode()


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _without_address(value: bytes, privacy: Privacy) -> bytes | None:
    """The record with its address as the tenant allows; None when it cannot be written again."""
    try:
        record = orjson.loads(value)
        click = record["click"]
        given = click.pop("ip-address", None)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, IndexError):
        return value  # no record with a place for an address
    if given is None:
        return value
    address = choose_address(given)[0] if isinstance(given, str) else None
    if privacy is Privacy.TRUNCATE and address is not None:
        click["ip-address"] = truncated(address)
    try:
        return orjson.dumps(record)
    except orjson.JSONEncodeError:  # nested deeper than can be written
        return None
