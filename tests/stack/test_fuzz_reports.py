"""The reports under the same fuzzing as the API: on the socket and by their OpenAPI document, with rows behind them."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from schemathesis import GenerationMode

from tests.support.full_stack import FullStack
from tests.support.fuzz import WIRE_EXAMPLES, check_answers, check_schema, quick
from tests.support.wire_fuzz import exchange, mutations


def port(stack: FullStack) -> int:
    """Where the reports are."""
    return urlsplit(stack.ready["reports"]).port or 0


def test_mutated_requests(full_stack: FullStack) -> None:
    """A good request with bytes changed anywhere: every answer is JSON and none is a bug."""
    paths = (
        "/v1/reports/ctr?from=2025-01-01&to=2025-01-31&promotion_id=p",
        "/v1/reports/ctr",
        "/v1/edr?cursor=latest&bots=yes&status=accepted&format=json",
        "/readyz",
        "/openapi.json",
    )
    key = full_stack.ready["reports_key"]
    originals = tuple(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode() for path in paths
    )

    @settings(quick, max_examples=WIRE_EXAMPLES // 4)
    @given(mutations(originals))
    def run(pieces: list[bytes]) -> None:
        check_answers(exchange(port(full_stack), pieces), b"".join(pieces))

    run()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
def test_the_openapi_document(full_stack: FullStack, mode: GenerationMode) -> None:
    """Requests made from the reports' own description, and ones that contradict it, get answers that it describes."""
    check_schema(port(full_stack), mode, {}, full_stack.ready["reports_key"])
    assert full_stack.supervisor.alive
