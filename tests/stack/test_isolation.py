"""Two tenants on one stack: neither sees or hits what is the other's, whatever the endpoint, and no answer tells of it.

Every route of both OpenAPI documents has a case here; a new route without one fails.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.api_service import BATCH, CLICKS, Reply
from tests.support.full_stack import FullStack
from tests.support.pipeline import audit_is_clean, eventually, query, run, succeed

REPORT = "/v1/reports/ctr"
STREAM = "/v1/rte"
BREAKDOWN = "/v1/reports/breakdown"
MINUTES = "/v1/reports/minutes"
OF_REPORTS = ("/v1/transactions", "/v1/webhooks", "/v1/reports/", "/v1/health", "/v1/login-links", "/v1/edr")
"""How paths begin that the reports serve, not the API."""
EXPORT = "/v1/edr"
THEIRS, NOTHING = "http://isolated.example/theirs", "http://isolated.example/nought"
"""A short URL of the other tenant, and one that nobody has; as long as each other."""
THEIR_PROMOTION, NO_PROMOTION = "their-promotion", "nono-promotion"

HOOKS = "/v1/webhooks"
HOOK = f"{HOOKS}/{{webhook_id}}"
OUR_HOOK = {"url": "https://hooks.example/", "enabled": False}
NO_HOOK = "wh_" + "0" * 24
THEIR_HOOKS: list[str] = []
"""Ids of the other tenant's webhooks."""

quick = settings(deadline=None, database=None, max_examples=25, suppress_health_check=list(HealthCheck))


class Tenant(NamedTuple):
    """One tenant's keys on a stack."""

    stack: FullStack
    clicks: str
    admin: str
    reports: str

    def ask(self, method: str, path: str, body: Any = None) -> Reply:
        """One request with the key that the path needs."""
        is_report = path.startswith(OF_REPORTS)
        where = self.stack.ready["reports" if is_report else "api"]
        key = self.reports if is_report else self.clicks if path in (CLICKS, BATCH) else self.admin
        connection = http.client.HTTPConnection(str(urlsplit(where).hostname), urlsplit(where).port, timeout=30)
        try:
            text = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            fields = {"authorization": f"Bearer {key}", "content-type": "application/json"}
            connection.request(method, path, text, fields)
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def tenants(full_stack: FullStack) -> tuple[Tenant, Tenant]:
    """The stack's own tenant, and another one that has a link, a promotion and a click."""
    ready = full_stack.ready
    ours = Tenant(full_stack, ready["key"], ready["admin_key"], ready["reports_key"])
    succeed(full_stack, "tenants", "create", "isolated")
    grants = ("shortlinkclicks", "admin", "reports,webhooks")
    keys = [succeed(full_stack, "keys", "create", "--tenant", "isolated", "--grants", each).strip() for each in grants]
    theirs = Tenant(full_stack, *keys)
    link = {"short_url": THEIRS, "promotion_id": THEIR_PROMOTION, "recipient": "them", "match": "prefix"}
    eventually(lambda: theirs.ask("POST", "/v1/links", link).status == 200, "the other tenant's link")
    promotion = {"promotion_id": THEIR_PROMOTION, "name": "Theirs", "sent": 5, "delivered": 5}
    assert theirs.ask("POST", "/v1/promotions", promotion).status == 200
    assert theirs.ask("POST", CLICKS, {"short-url": THEIRS}).status == 200
    eventually(lambda: bool(rows_of_theirs(theirs)), "the other tenant's click in its report")
    THEIR_HOOKS.append(theirs.ask("POST", HOOKS, OUR_HOOK | {"description": "theirs"}).json["id"])
    return ours, theirs


def rows_of_theirs(theirs: Tenant) -> list[dict[str, Any]]:
    """The other tenant's report."""
    rows: list[dict[str, Any]] = theirs.ask("GET", REPORT).json["rows"]
    return rows


def as_asked(reply: Reply) -> tuple[int, bytes]:
    """Status and body, with the names that the request itself had taken out."""
    return reply.status, re.sub(rb"theirs|nought|their-promotion|nono-promotion", b"NAME", reply.body)


def same(ours: Tenant, ask: Callable[[Tenant, str], Reply], theirs: str, nothing: str) -> Reply:
    """What is asked about the other tenant's thing is answered as about a thing that nobody has."""
    found = ask(ours, theirs)
    assert as_asked(found) == as_asked(ask(ours, nothing))
    return found


def click(ours: Tenant, end: str) -> None:
    """A click on another tenant's link is 1003, as on no link."""
    found = same(ours, lambda who, url: who.ask("POST", CLICKS, {"short-url": url}), THEIRS + end, NOTHING + end)
    assert (found.status, found.json["code"]) == (499, "1003")


def batch(ours: Tenant, end: str) -> None:
    """The same in a batch."""
    found = same(ours, lambda who, url: who.ask("POST", BATCH, [{"short-url": url}]), THEIRS + end, NOTHING + end)
    assert [line["code"] for line in found.json] == ["1003"]


def get_link(ours: Tenant, end: str) -> None:
    """Another tenant's link cannot be read, and is in no list: not even where the next page begins."""
    found = same(ours, lambda who, url: who.ask("GET", by_url(url)), THEIRS + end, NOTHING + end)
    assert found.status == 404
    cursor: str | None = ""
    while cursor is not None:
        page = ours.ask("GET", f"/v1/links?cursor={cursor}")
        cursor = page.json["next_cursor"]
        assert b"isolated" not in page.body + base64.urlsafe_b64decode((cursor or "") + "===")
    of_theirs = same(
        ours, lambda who, name: who.ask("GET", f"/v1/links?promotion_id={name}"), THEIR_PROMOTION, NO_PROMOTION
    )
    assert of_theirs.json == {"links": [], "next_cursor": None}


def delete_link(ours: Tenant, end: str) -> None:
    """Another tenant's link cannot be deleted."""
    found = same(ours, lambda who, url: who.ask("DELETE", by_url(url)), THEIRS + end, NOTHING + end)
    assert found.status == 404


def resolve_link(ours: Tenant, end: str) -> None:
    """The dry run says the same of another tenant's link and of none."""
    same(ours, lambda who, url: who.ask("POST", "/v1/links/resolve", {"short-url": url}), THEIRS + end, NOTHING + end)


def register_link(ours: Tenant, end: str) -> None:
    """Another tenant's short URL cannot be taken. That somebody has it must be told; whose it is must not."""
    found = ours.ask("POST", "/v1/links", {"short_url": THEIRS, "promotion_id": "ours"}).json
    assert [line["code"] for line in found] == ["409"]
    assert "isolated" not in found[0]["description"]


def register_promotion(ours: Tenant, end: str) -> None:
    """A promotion with another tenant's id is one's own."""
    assert ours.ask("POST", "/v1/promotions", {"promotion_id": THEIR_PROMOTION, "name": "Ours"}).status == 200
    assert ours.ask("GET", by_id(THEIR_PROMOTION)).json["name"] == "Ours"
    assert ours.ask("DELETE", by_id(THEIR_PROMOTION)).status == 200


def get_promotion(ours: Tenant, end: str) -> None:
    """Another tenant's promotion cannot be read."""
    assert same(ours, lambda who, name: who.ask("GET", by_id(name)), THEIR_PROMOTION, NO_PROMOTION).status == 404


def delete_promotion(ours: Tenant, end: str) -> None:
    """Nor deleted."""
    assert same(ours, lambda who, name: who.ask("DELETE", by_id(name)), THEIR_PROMOTION, NO_PROMOTION).status == 404


def transaction(ours: Tenant, end: str) -> None:
    """Another tenant's click is as unknown as nobody's, which is told in the same words."""
    theirs = query(ours.stack, "SELECT transaction_id FROM clicks WHERE tenant = 'isolated' LIMIT 1")[0][
        "transaction_id"
    ]
    nobodys = theirs[:-12] + "0" * 12
    assert same(ours, lambda who, name: who.ask("GET", f"/v1/transactions/{name}"), theirs, nobodys).status == 404


def report(ours: Tenant, end: str) -> None:
    """A report has one's own promotions only; another tenant's is as unknown as nobody's."""
    for path in (f"{REPORT}?by=promotion,campaign", f"{BREAKDOWN}?by=promotion,browser,link"):
        ask = lambda who, name, path=path: who.ask("GET", f"{path}&promotion_id={name}")  # noqa: E731
        assert same(ours, ask, THEIR_PROMOTION, NO_PROMOTION).status == 404
        assert THEIR_PROMOTION not in ours.ask("GET", path).body.decode()


def minutes(ours: Tenant, end: str) -> None:
    """The last hour by minute has one's own clicks only, whichever promotion is asked for."""
    found = same(
        ours, lambda who, name: who.ask("GET", f"{MINUTES}?promotion_id={name}"), THEIR_PROMOTION, NO_PROMOTION
    )
    assert sum(row["clicks"] for row in found.json["rows"]) == 0


def pipeline_health(ours: Tenant, end: str) -> None:
    """Freshness is the asker's; the rest is states of the whole pipeline, without a number of anybody's clicks."""
    found = ours.ask("GET", "/v1/health").json
    assert found["tenant"] == "default"
    assert "isolated" not in json.dumps(found)


def login_link(ours: Tenant, end: str) -> None:
    """A login link is of the tenant whose key made it, and names nobody."""
    assert "isolated" not in ours.ask("POST", "/v1/login-links").body.decode()


def export(ours: Tenant, end: str) -> None:
    """An export has one's own rows only, whichever promotion or link is asked for."""
    if end not in ("", "/below"):
        return  # the filter compares text with text
    everything = f"{EXPORT}?from=2020-01-01T00:00:00Z"
    for name, theirs, nothing in (
        ("promotion_id", THEIR_PROMOTION, NO_PROMOTION),
        ("link", THEIRS + end, NOTHING + end),
    ):
        found = same(
            ours, lambda who, value, name=name: who.ask("GET", f"{everything}&{name}={quote(value)}"), theirs, nothing
        )  # type: ignore[misc]
        assert found.body.count(b"\n") == 1, "the head"
    for asked in (everything, f"{EXPORT}?cursor=earliest"):
        assert THEIR_PROMOTION not in ours.ask("GET", asked).body.decode()


def stream(ours: Tenant, end: str) -> None:
    """The event stream, from its beginning to a click of one's own, has nothing of another tenant's."""
    if end:
        return  # nothing is asked for
    link = {"short_url": "http://ours.example/streamed", "promotion_id": "ours"}
    assert ours.ask("POST", "/v1/links", link).status == 200
    eventually(lambda: ours.ask("POST", CLICKS, {"short-url": link["short_url"]}).status == 200, "a click of our own")
    own = ours.ask("POST", CLICKS, {"short-url": link["short_url"]}).json["transaction-id"]
    where = urlsplit(ours.stack.ready["reports"])
    with contextlib.closing(http.client.HTTPConnection(str(where.hostname), where.port, timeout=60)) as connection:
        connection.request("GET", f"{STREAM}?from=earliest", headers={"authorization": f"Bearer {ours.reports}"})
        response = connection.getresponse()
        for line in response:
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                assert event["data"]["tenant"] == "default"
                if event["id"] == own:
                    return
    raise AssertionError("the stream ended")


def make_webhook(ours: Tenant, end: str) -> None:
    """A webhook is one's own, however much another tenant's is like it."""
    made = ours.ask("POST", HOOKS, OUR_HOOK)
    assert made.status == 201
    assert made.json["id"] not in THEIR_HOOKS
    assert ours.ask("DELETE", f"{HOOKS}/{made.json['id']}").status == 200


def list_webhooks(ours: Tenant, end: str) -> None:
    """The list has one's own."""
    found = ours.ask("GET", HOOKS)
    assert found.status == 200
    assert not any(webhook["id"] in THEIR_HOOKS for webhook in found.json["webhooks"])
    assert b"theirs" not in found.body


def no_webhook(method: str, below: str = "", body: Any = None) -> Callable[[Tenant, str], None]:
    """Another tenant's webhook cannot be read, changed, tried, replayed or deleted: there is none."""

    def case(ours: Tenant, end: str) -> None:
        (theirs,) = THEIR_HOOKS
        found = same(ours, lambda who, name: who.ask(method, f"{HOOKS}/{name}{below}", body), theirs, NO_HOOK)
        assert found.status == 404

    return case


def health(ours: Tenant, end: str) -> None:
    """Nothing here is a tenant's."""
    for path in ("/livez", "/readyz"):
        assert b"isolated" not in ours.ask("GET", path).body


def by_url(url: str) -> str:
    """The path of one link."""
    return f"/v1/links?short_url={quote(url, safe='')}"


def by_id(name: str) -> str:
    """The path of one promotion."""
    return f"/v1/promotions?promotion_id={name}"


CASES: Mapping[str, Callable[[Tenant, str], None]] = {
    f"POST {CLICKS}": click,
    f"POST {BATCH}": batch,
    "POST /v1/links": register_link,
    "GET /v1/links": get_link,
    "DELETE /v1/links": delete_link,
    "POST /v1/links/resolve": resolve_link,
    "POST /v1/promotions": register_promotion,
    "GET /v1/promotions": get_promotion,
    "DELETE /v1/promotions": delete_promotion,
    "GET /livez": health,
    "GET /readyz": health,
    f"GET {REPORT}": report,
    f"GET {BREAKDOWN}": report,
    "GET /v1/transactions/{transaction_id}": transaction,
    f"GET {MINUTES}": minutes,
    "GET /v1/health": pipeline_health,
    "POST /v1/login-links": login_link,
    f"GET {EXPORT}": export,
    f"GET {STREAM}": stream,
    f"POST {HOOKS}": make_webhook,
    f"GET {HOOKS}": list_webhooks,
    f"GET {HOOK}": no_webhook("GET"),
    f"PATCH {HOOK}": no_webhook("PATCH", body={"enabled": True}),
    f"DELETE {HOOK}": no_webhook("DELETE"),
    f"POST {HOOK}/rotate": no_webhook("POST", "/rotate"),
    f"POST {HOOK}/test": no_webhook("POST", "/test"),
    f"GET {HOOK}/deliveries": no_webhook("GET", "/deliveries"),
    f"POST {HOOK}/replay": no_webhook("POST", "/replay", {"from": int(time.time() * 1_000) - 1_000}),
}
"""Route -> what a tenant must not be able to do there; the text after `http://…` is the end of the URL that it tries."""


def test_every_route_has_a_case(full_stack: FullStack) -> None:
    """The routes of both documents are those of the cases."""
    routes = set()
    for name in ("api", "reports"):
        where = urlsplit(full_stack.ready[name])
        connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=30)
        connection.request("GET", "/openapi.json")
        paths = json.loads(connection.getresponse().read())["paths"]
        connection.close()
        routes |= {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert routes == set(CASES)


@pytest.mark.parametrize("route", CASES)
def test_what_is_another_tenants(tenants: tuple[Tenant, Tenant], route: str) -> None:
    """By any spelling of its short URL, and below it, another tenant's link is as if it did not exist."""
    ours, _ = tenants
    ends = st.sampled_from(("", "/", "?a=b", "#c", ".", "/.", "/x/..", "/%2e", "/below", "/below/it?x", ")", " "))

    @quick
    @given(ends)
    def run(end: str) -> None:
        CASES[route](ours, end)

    run()


def test_one_idempotency_key_of_two_tenants(tenants: tuple[Tenant, Tenant]) -> None:
    """The same key of two tenants is two clicks, and neither is the other's duplicate."""
    ours, theirs = tenants
    ids = []
    for who, url in ((ours, ours.stack.ready["short_url"]), (theirs, THEIRS)):
        found = who.ask("POST", BATCH, [{"short-url": url, "idempotency-key": "isolation"}]).json
        ids.append(found[0]["transaction-id"])
    assert ids[0] != ids[1]
    sql = f"SELECT tenant, status FROM clicks WHERE transaction_id IN ('{ids[0]}', '{ids[1]}') ORDER BY tenant"
    eventually(lambda: len(query(ours.stack, sql)) == 2, "both clicks in the table")
    assert [row["tenant"] for row in query(ours.stack, sql)] == ["default", "isolated"]


def test_nothing_of_theirs_was_touched(tenants: tuple[Tenant, Tenant]) -> None:
    """After all that was tried: link, promotion and report of the other tenant are as they were, and rows are its own."""
    ours, theirs = tenants
    for route in CASES.values():
        route(ours, "")
    assert theirs.ask("GET", by_url(THEIRS)).json["recipient"] == "them"
    assert theirs.ask("GET", by_id(THEIR_PROMOTION)).json["name"] == "Theirs"
    webhook = theirs.ask("GET", f"{HOOKS}/{THEIR_HOOKS[0]}").json
    assert (webhook["description"], webhook["enabled"], webhook["replay"]) == ("theirs", False, None)
    assert {row["promotion_id"] for row in rows_of_theirs(theirs)} == {THEIR_PROMOTION}
    audit_is_clean(ours.stack)
    mixed = "SELECT count() AS rows FROM clicks WHERE (tenant = 'isolated') != (link LIKE 'isolated.example/%')"
    assert query(ours.stack, mixed)[0]["rows"] in (0, "0")


HOSTILE = (
    "' OR 1=1 --",
    "'); DROP TABLE clicks; --",
    "\\",
    "{tenant:String}",
    "x' UNION ALL SELECT * FROM clicks --",
    "\0",
)


def test_no_parameter_is_sql(tenants: tuple[Tenant, Tenant]) -> None:
    """Text that would end a string or a statement is a value in every parameter of every route that reads."""
    ours, _ = tenants
    where = urlsplit(ours.stack.ready["reports"])
    connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", "/openapi.json")
        paths = json.loads(connection.getresponse().read())["paths"]
    rows = query(ours.stack, "SELECT count() AS n FROM clicks")
    asked = 0
    for path, operation in ((path, of["get"]) for path, of in paths.items() if "get" in of and path != STREAM):
        for parameter in operation.get("parameters", ()):
            name = parameter["name"]
            for text in HOSTILE:
                if parameter["in"] == "path":
                    target = path.replace(f"{{{name}}}", quote(text, safe=""))
                elif parameter["in"] == "query":
                    more = "&from=2020-01-01T00:00:00Z" if path == EXPORT and name != "from" else ""
                    target = f"{re.sub('{.*?}', 'none', path)}?{name}={quote(text)}{more}"
                else:
                    continue
                found = ours.ask("GET", target)
                assert found.status in {200, 400, 404}, (target, found)
                assert b"isolated" not in found.body, target
                asked += 1
    assert asked > 100
    assert query(ours.stack, "SELECT count() AS n FROM clicks") == rows


def test_sql(tenants: tuple[Tenant, Tenant]) -> None:
    """On the running stack too, a key reads its own tenant's rows, and no other key or tenant's name goes with it."""
    ours, theirs = tenants
    stack = ours.stack
    sql = (
        "sql",
        "--format",
        "TSV",
        "SELECT groupUniqArray(tenant) FROM (SELECT tenant FROM clicks UNION ALL SELECT tenant FROM rte)",
    )
    assert succeed(stack, *sql, "--tenant", "isolated", "--key", theirs.reports) == "['isolated']\n"
    for name, key in (("isolated", ours.reports), ("default", theirs.reports), ("isolated", theirs.clicks)):
        assert run(stack, *sql, "--tenant", name, "--key", key).returncode == 1
    click(ours, "")
    assert ours.ask("POST", CLICKS, {"short-url": stack.ready["short_url"]}).status == 200
    own = ("--tenant", "default")  # its key is in the ready file
    eventually(lambda: succeed(stack, *sql, *own) == "['default']\n", "our own rows, and no others")
    assert "isolated" in succeed(stack, *sql)
