"""One-time login links to the dashboard of the running local stack."""

from __future__ import annotations

import http.client
import json
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from clickledger.stack.ready import Ready
from shared.errors import OperatorError, TransientError

_SECONDS_MAX: Final = 10.0


def make_login_link(stack: Ready) -> str:
    """An address that logs a browser in, once, within ten minutes; the key itself does not stand in it.

    Raises TransientError when the reports do not answer, OperatorError when they refuse the stack's key.
    """
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
        raise OperatorError(f"{stack.reports} refuses the stack's reports_key: it was revoked, or has another grant")
    if response.status != HTTPStatus.CREATED:
        raise TransientError(f"{stack.reports} answered {response.status} instead of a login link")
    return f"{stack.reports}{json.loads(body)['path']}"
