"""Reports over real HTTP: who may read, and refusals in one shape. Figures are tested against ClickHouse elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from reporting.problems import Refused
from reporting.turns import Turns
from tests.support.catalog import SECRET, key_record
from tests.support.reporting import READER, ReportingService, running
from tests.support.wire_fuzz import exchange, take_apart
from tools.postman import documents, operations_of

BAD_QUERIES = (
    "from=yesterday",
    "from=2025-02-30",
    "from=2025-02-02T10:00:00",
    "from=2025-02-02&to=2025-02-01",
    "from=2025-02-02T10:00:00Z&to=2025-02-02T12:00:00%2B02:00",
    "from=2020-01-01&to=2025-01-01",
    "from=0001-01-01&to=9999-12-31",
    "to=9999-12-31",
    "zone=Europe/Nowhere",
    "zone=../../etc/passwd",
    "by=browser",
    "by=day,day",
    "by=promotion,campaign,deployment,link,day",
    "by=device_brand",
    "by=link&empty=true",
    "by=promotion,day&empty=true",
    "limit=0",
    "limit=10001",
    "format=pdf",
    "unique=perhaps",
    "promotion_id=",
    "promotion=spring",
    "from=2025-02-02&from=2025-02-02",
    "tenant=other",
)

OPERATIONS = {f"{method} {path}": about for method, path, about in operations_of(documents()["reports"])}
"""Every operation of the OpenAPI document."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReportingService]:
    """One for the tests that change nothing."""
    with running(tmp_path_factory.mktemp("reporting")) as service:
        yield service


@pytest.fixture
def own_service(tmp_path: Path) -> Iterator[ReportingService]:
    """One of a test's own."""
    with running(tmp_path) as service:
        yield service


@pytest.mark.parametrize(
    ("path", "secret", "method", "status"),
    [
        ("/v1/reports/ctr", None, "GET", 401),
        ("/v1/reports/ctr", "unknown", "GET", 401),
        ("/v1/reports/ctr", SECRET, "GET", 403),
        *((f"/v1/reports/ctr?{query}", READER, "GET", 400) for query in BAD_QUERIES),
        ("/v1/reports/breakdown", SECRET, "GET", 403),
        ("/v1/reports/breakdown?by=day,colour", READER, "GET", 400),
        ("/v1/reports/ctr", READER, "POST", 405),
        ("/v1/reports/other", READER, "GET", 404),
        ("/v1/reports/ctr", READER, "GET", 503),
        ("/v1/reports/ctr?by=promotion&empty=true", READER, "GET", 503),
        ("/v1/reports/ctr?by=link_name,hour&limit=10000", READER, "GET", 503),
        ("/v1/reports/breakdown?by=&format=xlsx", READER, "GET", 503),
        ("/v1/reports/breakdown?by=device_brand&link_name=button&empty=false", READER, "GET", 503),
        ("/v1/edr", None, "GET", 401),
        ("/v1/edr", SECRET, "GET", 403),
        ("/v1/edr", READER, "GET", 400),
        ("/v1/edr?from=2025-01-01T00:00:00Z", READER, "GET", 503),
        ("/v1/edr?cursor=earliest", READER, "GET", 503),
        ("/v1/rte", None, "GET", 401),
        ("/v1/rte", SECRET, "GET", 403),
        ("/v1/rte", READER, "GET", 503),
        ("/v1/rte?status=accepted&status=rejected&promotion_id=a&promotion_id=b&bots=no", READER, "GET", 503),
        ("/v1/rte?status=ok", READER, "GET", 400),
        ("/v1/rte?bots=1", READER, "GET", 400),
        ("/v1/rte?bots=yes&bots=no", READER, "GET", 400),
        ("/v1/rte?promotion=spring", READER, "GET", 400),
        ("/v1/rte?promotion_id=", READER, "GET", 400),
        ("/v1/rte?from=yesterday", READER, "GET", 400),
        ("/v1/rte?from=2020-01-01T00:00:00", READER, "GET", 400),
        ("/v1/rte?from=99999999999999", READER, "GET", 400),
        ("/v1/rte?after=s.x", READER, "GET", 400),
        ("/v1/rte?last_event_id=%00", READER, "GET", 400),
        ("/v1/rte?link=" + "x" * 2_049, READER, "GET", 400),
        ("/v1/rte?" + "&".join(f"link={n}" for n in range(101)), READER, "GET", 400),
    ],
)
def test_refusals_have_one_shape(
    service: ReportingService, path: str, secret: str | None, method: str, status: int
) -> None:
    """Code = status as a string, a description, nothing else; an absent ClickHouse is 503, with when to try again."""
    found = service.ask(method, path, {"Authorization": f"Bearer {secret}"} if secret else {})
    assert (found.status, found.json["code"], set(found.json)) == (status, str(status), {"code", "description"})
    assert ("retry-after" in found.headers) == (status == 503)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_unknown_and_doubled_parameters_are_refused(service: ReportingService, operation: str) -> None:
    """At every route of the OpenAPI document, by name, before anything is done; so a misspelt filter widens nothing."""
    method, path = operation.split(" ")
    known = OPERATIONS[operation].get("parameters", ())
    wrong = {"tenant=other": "Unknown parameter 'tenant'", "From=x&x=1": "Unknown parameter 'From'"}
    for name, shape in ((each["name"], each["schema"]) for each in known if each["in"] == "query"):
        if shape.get("type") != "array":
            wrong[f"{name}=1&{name}=2"] = f"'{name}' is given 2 times"
        wrong[f"{name}_=1"] = f"Unknown parameter '{name}_'"
    for query, says in wrong.items():
        found = service.ask(method, f"{path}?{query}", {"Authorization": f"Bearer {READER}"}, b"{}")
        assert (found.status, says in found.json["description"]) == (400, True), (query, found.body)


def test_every_route_is_in_that_test(service: ReportingService) -> None:
    """The running service describes these operations and no others."""
    paths = service.get("/openapi.json", None)[1]["paths"]
    assert {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods} == set(OPERATIONS)


def test_a_revoked_key_and_a_catalog_that_is_not_ready(own_service: ReportingService) -> None:
    """Revocation works at the next request; without a catalog nobody is told that a key is wrong."""
    own_service.catalog.put("key", "k2", key_record(READER, key_id="k2", grants=["reports"], revoked=True))
    assert own_service.get("/v1/reports/ctr")[0] == 401
    own_service.catalog.is_ready = False
    assert own_service.get("/v1/reports/ctr")[0] == 503


def test_health(own_service: ReportingService) -> None:
    """Alive at once; ready only while every check says so."""
    assert own_service.get("/livez", None) == (200, {"status": "alive"})
    assert own_service.get("/readyz", None)[0] == 200
    own_service.runtime.checks.append(lambda: "no catalog yet")
    status, body = own_service.get("/readyz", None)
    assert (status, body["code"], body["reasons"]) == (503, "503", ["no catalog yet"])
    assert "no catalog yet" in body["description"]


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01", b"GET / HTTP/1.1\r\na: " + b"x" * 40_000, b"BREW /x HTTP/1.1\r\n\r\n"]
)
def test_what_is_not_http_is_refused_in_the_one_shape(service: ReportingService, sent: bytes) -> None:
    """Malformed HTTP is 400 in JSON, as at the API."""
    (answer,) = take_apart(exchange(service.port, [sent]), may_be_head=False)
    assert (answer.status, answer.json["code"], set(answer.json)) == (400, "400", {"code", "description"})


async def test_queries_take_turns() -> None:
    """One at once, one that waits, the next is refused; a turn that ends is the next one's."""
    turns, order = Turns(1, 1), []
    may_end = asyncio.Event()

    async def query(name: str) -> None:
        async with turns.one("acme"):
            order.append(name)
            await may_end.wait()

    first, second = asyncio.create_task(query("first")), asyncio.create_task(query("second"))
    await asyncio.sleep(0)
    with pytest.raises(Refused) as refused:
        await query("third")
    assert refused.value.status == 503
    may_end.set()
    await asyncio.gather(first, second)
    assert order == ["first", "second"]
    await query("fourth")


async def test_no_tenant_takes_all_turns() -> None:
    """It leaves a place to others and waits for its own; of those who wait the tenant that runs least is next."""
    turns, began = Turns(3, 8), list[str]()
    may_end: dict[str, asyncio.Event] = {}

    async def query(tenant: str, number: int) -> None:
        name = f"{tenant}{number}"
        may_end[name] = asyncio.Event()
        async with turns.one(tenant):
            began.append(name)
            await may_end[name].wait()

    async def settle() -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    greedy = [asyncio.create_task(query("a", number)) for number in range(6)]
    await settle()
    assert began == ["a0", "a1"]
    with pytest.raises(Refused) as refused:  # half of the waiting places are its own
        await query("a", 9)
    assert "of this tenant" in refused.value.description
    others = [asyncio.create_task(query("b", number)) for number in range(2)]
    others += [asyncio.create_task(query("c", 0))]
    await settle()
    assert began == ["a0", "a1", "b0"]
    may_end["a0"].set()
    await settle()
    assert began[3:] == ["c0"]
    greedy[2].cancel()
    while not all(task.done() for task in (*greedy, *others)):
        for event in may_end.values():
            event.set()
        await settle()
    assert sorted(began) == ["a0", "a1", "a3", "a4", "a5", "b0", "b1", "c0"]
    assert (turns._free, turns._waiting, turns._running.total()) == (3, [], 0)
