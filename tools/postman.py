"""Writes the Postman collection, docs/postman/clickledger.json, from the OpenAPI documents of both services.

    python -m tools.postman

Each request says what its answer must be, so the collection is a test too: tests/stack/test_postman.py runs it.
tests/unit/test_postman.py fails when the file is not current.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, cast

from ingest_api.answers import Answers
from ingest_api.app import Surface, create_app
from ingest_api.metrics import Tallies
from reporting.app import build_app

FILE: Final = Path(__file__).parents[1] / "docs/postman/clickledger.json"
CLICKS: Final = "/campaignapi/resources/v3/shortlinkclicks"
_SCHEMA: Final = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
_VARIABLES: Final = {
    "api": "http://127.0.0.1:8080",
    "reports": "http://127.0.0.1:8081",
    "clicks_key": "",
    "admin_key": "",
    "reports_key": "",
    "short_url": "http://shortdomain/dsltrack/employee/j460A8",
    "new_url": "http://postman.example/first",
    "promotion_id": "postman",
    "transaction_id": "",
    "webhook_id": "00000000-0000-0000-0000-000000000000",
}
_CLICK: Final = '{"short-url": "{{short_url}}", "user-agent": "Mozilla/5.0 (iPhone)", "ip-address": "203.199.178.211"}'
_REMEMBER_ID: Final = 'pm.collectionVariables.set("transaction_id", body["transaction-id"]);'
_BATCH: Final = "pm.expect(body.map((line) => Object.keys(line)[0])).to.eql(['transaction-id', 'code']);"
_ONE_LINE: Final = "pm.expect(body.length).to.eql(1);"


class Case(NamedTuple):
    """One request of an operation and what its answer must be."""

    name: str
    status: int = 200
    body: str | None = None
    query: Mapping[str, str] = {}
    code: str = ""
    """Of an error's body."""
    keys: Sequence[str] = ()
    """All keys of the answer, where they are closed."""
    script: str = ""
    """Further lines of the test; `body` is the answer."""
    is_json: bool = True


CASES: Final[Mapping[str, Sequence[Case]]] = {
    f"POST {CLICKS}": (
        Case("a click", body=_CLICK, keys=("transaction-id",), script=_REMEMBER_ID),
        Case("wrong JSON", 499, body='{"short-url": ', code="1001"),
        Case("without a short URL", 499, body="{}", code="1002"),
        Case("an unknown link", 499, body='{"short-url": "http://postman.example/nobody"}', code="1003"),
    ),
    "POST /v1/clicks": (
        Case("a click and an unknown link", body=f'[{_CLICK}, {{"short-url": "http://no.example/"}}]', script=_BATCH),
        Case("wrong JSON", 499, body="[{", code="1001"),
    ),
    "POST /v1/links": (
        Case(
            "a link",
            body='{"short_url": "{{new_url}}", "promotion_id": "{{promotion_id}}", "recipient": "919800000001"}',
            script=_ONE_LINE,
        ),
    ),
    "GET /v1/links": (
        Case("an unknown link", 404, query={"short_url": "http://postman.example/nobody"}, code="404"),
        Case(
            "the first of a promotion",
            query={"promotion_id": "{{promotion_id}}", "limit": "10"},
            keys=("links", "next_cursor"),
        ),
        Case("a limit that is none", 400, query={"limit": "0"}, code="400"),
    ),
    "DELETE /v1/links": (Case("an unknown link", 404, query={"short_url": "http://no.example/"}, code="404"),),
    "POST /v1/links/resolve": (Case("which link a URL is", body='{"short-url": "{{short_url}}"}'),),
    "POST /v1/promotions": (
        Case(
            "a promotion",
            body='{"promotion_id": "{{promotion_id}}", "name": "Postman", "sent": 10, "delivered": 9}',
            script=_ONE_LINE,
        ),
    ),
    "GET /v1/promotions": (Case("an unknown promotion", 404, query={"promotion_id": "nobody"}, code="404"),),
    "DELETE /v1/promotions": (Case("an unknown promotion", 404, query={"promotion_id": "nobody"}, code="404"),),
    "GET /livez": (Case("the process lives"),),
    "GET /readyz": (Case("the process is ready"),),
    "GET /v1/reports/ctr": (
        Case("the last 30 days"),
        Case("a zone that is none", 400, query={"zone": "Mars/Olympus"}, code="400"),
        Case("an unknown parameter", 400, query={"form": "2026-01-01"}, code="400"),
    ),
    "GET /v1/reports/breakdown": (Case("by browser", query={"by": "browser"}),),
    "GET /v1/transactions/{transaction_id}": (Case("the click from above"),),
    "GET /v1/edr": (  # of one promotion: a runner keeps each answer, and all rows may be millions
        Case(
            "a promotion's since 2026 as CSV",
            query={"promotion_id": "{{promotion_id}}", "from": "2026-01-01T00:00:00Z", "format": "csv"},
            is_json=False,
        ),
    ),
    "GET /v1/health": (Case("how the pipeline is"),),
    "GET /v1/reports/minutes": (Case("the last hour by minute"),),
    "GET /v1/webhooks": (Case("all webhooks"),),
}
"""Method and path -> its requests. An operation that is not here has the request without a key only."""


class _Nothing:
    """Stands for what is behind the reports: it is not needed to describe them."""

    def __getattr__(self, name: str) -> _Nothing:
        return self

    def __call__(self, *_: object, **__: object) -> _Nothing:
        return self


def documents() -> dict[str, dict[str, Any]]:
    """The OpenAPI document behind each base address."""
    nothing = cast("Any", SimpleNamespace(answers=Answers()))
    api = create_app(Surface(nothing, nothing, nothing, nothing, nothing, Tallies()))
    return {"api": api.openapi(), "reports": build_app(cast("Any", _Nothing())).openapi()}


def collection() -> dict[str, Any]:
    """The collection, format 2.1."""
    found = documents()
    folders = [
        {
            "name": document["info"]["title"],
            "item": [item for each in operations_of(document) for item in _items(base, *each)],
        }
        for base, document in found.items()
    ]
    operations = {f"{m} {path}" for document in found.values() for m, path, _ in operations_of(document)}
    if unknown := CASES.keys() - operations:
        raise ValueError(f"no such operations: {', '.join(sorted(unknown))}")
    about = "Generated from OpenAPI by `python -m tools.postman`. Set the keys: `.clickledger/ready.json` has those of the local stack."
    return {
        "info": {"name": "Clickledger", "description": about, "schema": _SCHEMA},
        "variable": [{"key": name, "value": value} for name, value in _VARIABLES.items()],
        "item": folders,
    }


def operations_of(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Method, path and description of each operation of an OpenAPI document."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def _items(base: str, method: str, path: str, operation: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The cases of one operation, and the same as its first one without a key."""
    is_click = path in (CLICKS, "/v1/clicks")
    key = "{{reports_key}}" if base == "reports" else "{{clicks_key}}" if is_click else "{{admin_key}}"
    cases = CASES.get(f"{method} {path}", ())
    is_secured = bool(operation.get("security"))
    for case in cases:
        yield _item(base, method, path, operation, case, key if is_secured else "")
    if is_secured:
        query = cases[0].query if cases else {}
        refused = Case("without a key", 401, query=query, code="498" if is_click else "401")
        yield _item(base, method, path, operation, refused, "")


def _item(base: str, method: str, path: str, operation: Mapping[str, Any], case: Case, key: str) -> dict[str, Any]:
    filled = path.replace("{", "{{").replace("}", "}}")
    query = [{"key": name, "value": value} for name, value in case.query.items()]
    ending = "&".join(f"{name}={value}" for name, value in case.query.items())
    request: dict[str, Any] = {
        "method": method,
        "description": operation.get("summary", ""),
        "header": [{"key": "authorization", "value": f"Bearer {key}"}] if key else [],
        "url": {
            "raw": f"{{{{{base}}}}}{filled}{'?' if ending else ''}{ending}",
            "host": [f"{{{{{base}}}}}"],
            "path": filled.strip("/").split("/"),
            "query": query,
        },
    }
    if case.body is not None:
        request["header"].append({"key": "content-type", "value": "application/json"})
        request["body"] = {"mode": "raw", "raw": case.body, "options": {"raw": {"language": "json"}}}
    event = {"listen": "test", "script": {"type": "text/javascript", "exec": _script(case)}}
    return {"name": f"{method} {path}: {case.name}", "request": request, "event": [event], "response": []}


def _script(case: Case) -> list[str]:
    """The assertions on status and shape."""
    lines = [f'pm.test("status {case.status}", () => pm.response.to.have.status({case.status}));']
    if not case.is_json:
        return lines
    inside = ["const body = pm.response.json();"]
    keys = ("code", "description") if case.code else case.keys
    if keys:
        inside.append(f"pm.expect(Object.keys(body)).to.have.members({json.dumps(list(keys))});")
    if case.code:
        inside += [
            f"pm.expect(body.code).to.eql({json.dumps(case.code)});",
            'pm.expect(body.description).to.be.a("string");',
        ]
    inside += [case.script] if case.script else []
    return [*lines, 'pm.test("shape", () => {', *(f"  {line}" for line in inside), "});"]


def text() -> str:
    """The file's content."""
    return json.dumps(collection(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text(), encoding="utf-8")
