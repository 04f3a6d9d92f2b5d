"""One-time login links to the dashboard of the running local stack."""

from __future__ import annotations

import http.client
import json
import time
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from clickledger.stack.ready import Ready
from shared.errors import OperatorError, TransientError

_SECONDS_MAX: Final = 10.0
NEW_KEY_S: Final = 5.0
"""How long the reports may not have heard yet of a key that was just made."""
_AGAIN_S: Final = 0.5


def make_login_link(stack: Ready, *, patience_s: float = 0.0) -> str:
    """An address that logs a browser in, once, within ten minutes; the key itself does not stand in it.

    `patience_s`: a key that is refused may be too new. Raises TransientError when the reports do not answer,
    OperatorError when they refuse the stack's key.
    """
    deadline = time.monotonic() + patience_s
    while (made := _ask(stack)) is None and time.monotonic() < deadline:
        time.sleep(_AGAIN_S)
    if made is None:
        raise OperatorError(f"{stack.reports} refuses the stack's reports_key: it was revoked, or has another grant")
    return made


def _ask(stack: Ready) -> str | None:
    """A link; None when the key is refused."""
    where = urlsplit(stack.reports)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=_SECONDS_MAX)
    try:
        connection.request("POST", "/v1/login-links", headers={"Authorization": f"Bearer {stack.reports_key}"})
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as exc:
        raise TransientError(f"{stack.reports} does not answer: {exc or type(exc).__name__}") from exc
    finally:
        connection.close()
    if response.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return None
    if response.status != HTTPStatus.CREATED:
        raise TransientError(f"{stack.reports} answered {response.status} instead of a login link")
    return f"{stack.reports}{json.loads(body)['path']}"
