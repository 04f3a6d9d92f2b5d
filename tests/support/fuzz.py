"""What every answer must be, whatever was asked; and requests made from an OpenAPI document."""

from __future__ import annotations

import os
from http import HTTPStatus
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import APIOperation, Case, CheckFunction, GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.support.wire_fuzz import take_apart

WIRE_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "400"))
SCHEMA_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "20"))
WITHOUT_INPUT = ("/livez", "/readyz", "/v1/health", "/v1/login-links")
"""Paths to which no request can contradict the description."""
NEVER_ENDING = {"/v1/rte": {"Last-Event-ID": "other.0"}}
"""Paths whose good answer has no end, with a header that makes it another one; asked with it and without."""
LINE_BY_LINE = ("/campaignapi/resources/v3/shortlinkclicks", "/v1/clicks", "/v1/links", "/v1/promotions")
"""Paths that refuse a bad body with 499, or each bad line by itself within a 200, as published."""
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
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == sum(len(methods) for methods in schema.raw_schema["paths"].values())
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and operation.path in WITHOUT_INPUT:
            continue
        fields = {"Authorization": f"Bearer {keys.get(operation.path, other_key)}"}
        check_operation(operation, mode, base, fields)
        if operation.path in NEVER_ENDING:
            check_operation(operation, mode, base, fields | NEVER_ENDING[operation.path])


def checks_off(operation: APIOperation[Any, Any, Any, Any]) -> list[CheckFunction]:
    """Checks of schemathesis that are not run; all others of its default are.

    That what the document allows is accepted: it says "text" where a time, zone, position, URL or id is wanted, whose rules
    no schema can state; that they are refused with 400 is tested by name elsewhere. That what it forbids is refused, but
    for bodies: in a query everything is text (`null` is a promotion's name, one value is a list), and a header that is
    forbidden is Authorization most often, which we replace.
    """
    judged = bool(operation.body) and operation.path not in LINE_BY_LINE
    return [positive_data_acceptance, *([] if judged else [negative_data_rejection])]


def check_operation(
    operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode, base: str, fields: dict[str, str]
) -> None:
    """Requests to one operation; of a good answer without end only the head is looked at."""

    @settings(quick, max_examples=SCHEMA_EXAMPLES)
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Case) -> None:
        request = case.as_transport_kwargs(base_url=base, headers=fields)
        with requests.request(**request, stream=True, timeout=30) as response:
            if operation.path in NEVER_ENDING and response.status_code == HTTPStatus.OK:
                response._content = b""  # read already, for whoever asks
            case.validate_response(
                response,
                headers=fields,
                excluded_checks=checks_off(operation),
                transport_kwargs={"base_url": base, "headers": fields},
            )

    run()
