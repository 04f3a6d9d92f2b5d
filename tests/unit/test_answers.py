"""The table of published texts and codes."""

from __future__ import annotations

import orjson
import pytest

from ingest_api.answers import _TABLE, Answers, Published, Refusal, accepted_body, describe, published

PUBLISHED = {
    Published.NOT_PROCESSED: (200, "1010", "The request was not processed."),
    Published.NOT_ALLOWED: (
        401,
        "430",
        "Authorization failed. This resource is not allowed to access using this TOKEN or KEY",
    ),
    Published.INVALID_TOKEN: (401, "498", "Invalid token or Access token expired"),
    Published.METHOD: (405, "405", "Method not supported"),
    Published.TOO_MANY: (429, "429", "Too many requests. Throttle limit reached for the time window."),
    Published.FAILED: (499, "499", "Request failed."),
    Published.INTERNAL: (500, "500", "Internal server error"),
    Published.INVALID_JSON: (499, "1001", "Invalid input JSON"),
    Published.FIELD_MISSING: (499, "1002", "Mandatory field missing"),
    Published.NO_PROMOTION: (499, "1003", "Promotion does not exist for the URL given."),
    Published.NOT_FOUND: (404, "404", "Not found"),
}


def test_every_reason_has_a_row() -> None:
    """The table covers the reasons, and the published answers are all used."""
    assert set(_TABLE) == set(Refusal)
    assert {published(refusal) for refusal in Refusal} == set(Published) == set(PUBLISHED)


@pytest.mark.parametrize("refusal", Refusal)
def test_refusal(refusal: Refusal) -> None:
    """Each reason is answered with the published status and code; its description begins with the published text."""
    status, code, text = PUBLISHED[published(refusal)]
    for detail in ("", 'More: "\0\n".'):
        answer = Answers().refuse(refusal, detail)
        body = orjson.loads(answer.body)
        assert (answer.status, answer.reason, body.keys()) == (status, refusal, {"code", "description"})
        assert body["code"] == code
        assert body["description"].startswith(text)
        assert body["description"].endswith(detail or describe(refusal))
        assert dict(answer.headers).keys() == {405: {b"allow"}, 500: {b"retry-after"}}.get(status, set())


def test_allow() -> None:
    """405 says what is allowed."""
    assert Answers().refuse(Refusal.METHOD).headers == ((b"allow", b"POST"),)


def test_other_tenant_is_not_told() -> None:
    """Another tenant's link and no link at all are the same answer."""
    assert Answers().body(Refusal.LINK_OF_OTHER_TENANT) == Answers().body(Refusal.LINK_UNKNOWN)


def test_integer_codes() -> None:
    """`code` can be an integer."""
    answers = Answers(code_type="integer")
    assert orjson.loads(answers.refuse(Refusal.NOT_JSON).body)["code"] == 1001
    assert orjson.loads(answers.refuse(Refusal.NOT_JSON, "x").body)["code"] == 1001
    assert orjson.loads(answers.plain(404).body)["code"] == 404


def test_status_settings() -> None:
    """The statuses that the page leaves open are settings; the others stay."""
    answers = Answers(invalid_token_status=498, invalid_input_status=400)
    statuses = {published(refusal): answers.refuse(refusal).status for refusal in Refusal}
    changed = {Published.INVALID_TOKEN: 498} | dict.fromkeys(
        (Published.INVALID_JSON, Published.FIELD_MISSING, Published.NO_PROMOTION), 400
    )
    assert statuses == {row: status for row, (status, _, _) in PUBLISHED.items()} | changed


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 429, 431, 499, 503])
def test_plain(status: int) -> None:
    """Errors of other endpoints have the same two keys; their code is the status."""
    answer = Answers().plain(status, "Detail.")
    body = orjson.loads(answer.body)
    assert (answer.status, body.keys(), body["code"]) == (status, {"code", "description"}, str(status))
    assert body["description"].endswith(": Detail.")


def test_accepted() -> None:
    """A success is the transaction-id and nothing else."""
    assert accepted_body(b"x" * 36) == b'{"transaction-id":"' + b"x" * 36 + b'"}'
