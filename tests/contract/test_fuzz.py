"""Whatever comes in on a socket: every answer is JSON, none is a bug, the process lives and its log has no error.

The long form: FUZZ_EXAMPLES=100000, which `tests/unit/conftest.py` gives to the properties of the pure cores too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from tests.support.api_service import BATCH, CLICKS, ApiService
from tests.support.catalog import EXAMPLE_BODY, EXAMPLE_URL
from tests.support.fuzz import WIRE_EXAMPLES, check_answers, check_schema, quick
from tests.support.wire_fuzz import exchange, mutations

ERRORS_IN_LOG = ("unhandled error", "Traceback", "Exception in ASGI", '"level": "ERROR"', '"level": "CRITICAL"')


@pytest.fixture(scope="module")
def fuzzed(start_api: Callable[..., ApiService]) -> Iterator[ApiService]:
    """An API of the module's own, whose log is read at the end."""
    api = start_api(api_failed_authentications_max="1000000", api_rate_limit="1000000")
    yield api
    assert api.child is not None
    assert api.child.alive
    assert api.click().status == 200
    log = api.child.log.read_text(encoding="utf-8")
    assert not [text for text in ERRORS_IN_LOG if text in log], log[-4_000:]
    metrics = api.request("GET", "/metrics", port=api.health_port()).body.decode()
    assert 'clickledger_api_answers_total{code="500",reason="internal_error"} 0.0' in metrics


def wire(api: ApiService, method: str, target: str, key: str, body: bytes, fields: str = "") -> bytes:
    """A whole request."""
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n{fields}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def originals(api: ApiService) -> tuple[bytes, ...]:
    """One good request of every kind."""
    link = json.dumps({"short_url": "http://fuzz.example/a", "promotion_id": "p", "sent_at": 1}).encode()
    promotion = json.dumps({"promotion_id": "p", "sent": 3, "delivered": 2}).encode()
    lines = b'{"short-url":"%b","idempotency-key":"k"}\n{"short-url":"x"}\n' % EXAMPLE_URL.encode()
    chunked = f"POST {CLICKS} HTTP/1.1\r\nAuthorization: Bearer {api.click_key}\r\nTransfer-Encoding: chunked\r\n\r\n"
    return (
        wire(api, "POST", CLICKS, api.click_key, EXAMPLE_BODY, "Content-Type: application/json\r\n"),
        wire(api, "POST", CLICKS, api.click_key, b'{"short-url":"http://s.example/campaign/x","clicked-at":1}'),
        chunked.encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(EXAMPLE_BODY), EXAMPLE_BODY),
        wire(api, "POST", BATCH, api.click_key, lines, "Content-Type: application/x-ndjson\r\n"),
        wire(api, "POST", BATCH, api.click_key, b"[" + lines.replace(b"}\n{", b"},{") + b"]"),
        wire(api, "POST", "/v1/links", api.admin_key, link),
        wire(api, "GET", "/v1/links?short_url=fuzz.example%2Fa", api.admin_key, b""),
        wire(api, "GET", "/v1/links?promotion_id=p&limit=2&cursor=c2guZXhhbXBsZQ", api.admin_key, b""),
        wire(api, "DELETE", "/v1/links?short_url=fuzz.example/a", api.admin_key, b""),
        wire(api, "POST", "/v1/links/resolve", api.admin_key, b'{"short-url":"http://fuzz.example/a"}'),
        wire(api, "POST", "/v1/promotions", api.admin_key, promotion),
        wire(api, "GET", "/v1/promotions?promotion_id=p", api.admin_key, b""),
        wire(api, "GET", "/openapi.json", "", b""),
        wire(api, "GET", "/readyz", "", b""),
    )


def test_mutated_requests(fuzzed: ApiService) -> None:
    """Good requests with bytes changed, put in, taken out and doubled, cut anywhere, one behind the other."""

    @settings(quick, max_examples=WIRE_EXAMPLES)
    @given(mutations(originals(fuzzed)))
    def run(pieces: list[bytes]) -> None:
        check_answers(exchange(fuzzed.port, pieces), b"".join(pieces))

    run()


def test_any_bytes(fuzzed: ApiService) -> None:
    """What was never HTTP gets one 400 or nothing."""

    @settings(quick, max_examples=WIRE_EXAMPLES // 4)
    @given(st.binary(max_size=2_000))
    def run(sent: bytes) -> None:
        check_answers(exchange(fuzzed.port, [sent]), sent)

    run()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
def test_the_openapi_document(fuzzed: ApiService, mode: GenerationMode) -> None:
    """Requests made from the API's own description, and ones that contradict it, get answers that it describes."""
    check_schema(fuzzed.port, mode, {"/v1/clicks": fuzzed.click_key, CLICKS: fuzzed.click_key}, fuzzed.admin_key)
