"""What every answer must be, whatever was asked; and requests made from an OpenAPI document."""

from __future__ import annotations

import os
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import APIOperation, Case, CheckFunction, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.wire_fuzz import take_apart

WIRE_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "400"))
SCHEMA_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "20"))
WITHOUT_INPUT = ("/livez", "/readyz", "/v1/health", "/v1/login-links")
"""Paths to which no request can contradict the description."""
NEVER_ENDING = {"/v1/rte": {"Last-Event-ID": "other.0"}}
"""Paths whose good answer has no end, with a header that makes it another one."""
BUG = "Internal server error"
"""What an unhandled error is answered with; every other 500 says more."""

quick = settings(
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def check_answers(received: bytes, sent: bytes) -> None:
    """Each answer has the shape that every answer has, and none is a bug."""
    for answer in take_apart(received, may_be_head=b"HEAD" in sent):
        assert answer.fields[b"content-type"] == b"application/json"
        if not answer.body:
            assert b"HEAD" in sent
            continue
        found = answer.json
        if answer.status != 200:
            assert set(found) == {"code", "description"}
            assert found["description"] != BUG
            assert answer.status < 500 or b"retry-after" in answer.fields


def check_schema(port: int, mode: GenerationMode, keys: dict[str, str], other_key: str) -> None:
    """Every operation of the document at `/openapi.json`, with the path's key."""
    base = f"http://127.0.0.1:{port}"
    schema = schemathesis.openapi.from_url(f"{base}/openapi.json")
    checks: list[CheckFunction] = [
        *(not_a_server_error, status_code_conformance, content_type_conformance),
        *(response_schema_conformance, response_headers_conformance),
    ]
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == sum(len(methods) for methods in schema.raw_schema["paths"].values())
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and operation.path in WITHOUT_INPUT:
            continue
        check_operation(operation, mode, base, keys.get(operation.path, other_key), checks)


def check_operation(
    operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode, base: str, key: str, checks: list[CheckFunction]
) -> None:
    """Requests to one operation."""

    @settings(quick, max_examples=SCHEMA_EXAMPLES)
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Case) -> None:
        fields = {"authorization": f"Bearer {key}", **NEVER_ENDING.get(operation.path, {})}
        case.call_and_validate(base_url=base, headers=fields, checks=checks)

    run()
