"""Links and promotions over real HTTP: per-line results, ownership, reading, deleting, and the dry run."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import quote

import pytest

from tests.support.api_service import ApiService, Reply
from tests.support.catalog import EXAMPLE_URL


def ndjson(*lines: object) -> bytes:
    """Lines; text stands for itself."""
    return b"\n".join(line.encode() if isinstance(line, str) else json.dumps(line).encode() for line in lines)


def get_link(api: ApiService, short_url: str, key: str = "") -> Reply:
    """One link."""
    return api.admin("GET", f"/v1/links?short_url={quote(short_url, safe='')}", key=key)


def resolve(api: ApiService, short_url: str, key: str = "") -> dict[str, object]:
    """The dry run."""
    reply = api.admin("POST", "/v1/links/resolve", json.dumps({"short-url": short_url}).encode(), key=key)
    assert reply.status == 200
    found: dict[str, object] = reply.json
    return found


def test_register_and_click(api: ApiService) -> None:
    """A registered link is clickable when the answer is there; a bad line refuses itself only, with its reason."""
    body = ndjson(
        {
            "short_url": "https://N.example/a/",
            "promotion_id": "p1",
            "recipient": "r",
            "sent_at": "2999-01-01T00:00:00Z",
        },
        {"short_url": "http://n.example/b"},
        "{",
        {"short_url": "http://n.example/c", "promotion_id": "p1", "expire_at": 1},
        {"short_url": "ftp://n.example/d", "promotion_id": "p1"},
        {"short_url": "http://n.example/e", "promotion_id": 7, "match": "prefix", "disabled": "no"},
    )
    reply = api.admin("POST", "/v1/links", body)
    assert reply.status == 200
    assert [result.get("link") for result in reply.json] == ["n.example/a", None, None, None, None, "n.example/e"]
    assert [result["code"] for result in reply.json if "code" in result] == ["400"] * 4
    for index, word in ((1, "promotion_id is missing"), (2, "JSON"), (3, "expire_at"), (4, "short_url")):
        assert word in reply.json[index]["description"]
    assert int(reply.headers["x-catalog-version"]) <= api.get("/readyz").json["catalog_version"]
    assert api.click(b'{"short-url":"http://n.example/a"}').code == ""
    assert api.click(b'{"short-url":"http://n.example/e/f"}').code == ""
    found = get_link(api, "n.example/a").json
    assert (found["tenant"], found["promotion_id"], found["sent_at"]) == ("acme", "p1", 32_472_144_000_000)


def test_array_body(api: ApiService) -> None:
    """A JSON array is the same; an array that is no JSON is 400."""
    line = {"short_url": "http://n.example/array", "promotion_id": "p"}
    assert api.admin("POST", "/v1/links", json.dumps([line, 1]).encode()).json[0] == {"link": "n.example/array"}
    assert api.admin("POST", "/v1/links", b"[{").code == "400"
    assert api.admin("POST", "/v1/links", b"").code == "400"


def test_another_tenants_short_url(api: ApiService) -> None:
    """A short URL that another tenant owns is refused without saying whose, and stays theirs."""
    line = {"short_url": "http://s.example/rival", "promotion_id": "mine"}
    result = api.admin("POST", "/v1/links", ndjson(line)).json[0]
    assert result["code"] == "409"
    assert "rival" not in result["description"]
    assert get_link(api, "s.example/rival").status == 404
    assert api.admin("DELETE", "/v1/links?short_url=s.example/rival").status == 404
    assert get_link(api, "s.example/rival", api.rival_key).json["promotion_id"] == "p1"


async def test_two_tenants_at_once(api: ApiService) -> None:
    """Of two tenants that register one URL at the same moment, only its owner is told that it has it."""
    for number in range(5):
        line = ndjson({"short_url": f"http://n.example/race{number}", "promotion_id": "p"})
        replies = await asyncio.gather(
            asyncio.to_thread(api.admin, "POST", "/v1/links", line),
            asyncio.to_thread(api.admin, "POST", "/v1/links", line, api.rival_key),
        )
        owners = [get_link(api, f"n.example/race{number}", key).status == 200 for key in (api.admin_key, api.rival_key)]
        assert sorted(owners) == [False, True]
        told = ["link" in reply.json[0] for reply in replies]
        assert told[owners.index(True)]


async def test_registration_time_is_kept(api: ApiService) -> None:
    """Registering a link again replaces it, but retention still runs from its first registration."""
    line = {"short_url": "http://n.example/again", "promotion_id": "p1"}
    api.admin("POST", "/v1/links", ndjson(line))
    first = get_link(api, "n.example/again").json
    api.admin("POST", "/v1/links", ndjson(line | {"promotion_id": "p2", "recipient": "r"}))
    second = get_link(api, "n.example/again").json
    assert (second["promotion_id"], second["recipient"]) == ("p2", "r")
    assert second["registered_at"] == first["registered_at"]


def test_delete(api: ApiService) -> None:
    """A deleted link is gone for look-ups and clicks; deleting it again is 404."""
    api.admin("POST", "/v1/links", ndjson({"short_url": "http://n.example/gone", "promotion_id": "p1"}))
    reply = api.admin("DELETE", "/v1/links?short_url=http://n.example/gone")
    assert (reply.status, reply.json) == (200, {"deleted": True})
    assert get_link(api, "n.example/gone").code == "404"
    assert api.click(b'{"short-url":"http://n.example/gone"}').code == "1003"
    assert api.admin("DELETE", "/v1/links?short_url=http://n.example/gone").code == "404"


def test_promotions(api: ApiService) -> None:
    """Promotions are registered, read and deleted by id, each tenant its own."""
    lines = ndjson(
        {"promotion_id": "pr1", "name": "Näme", "sent": "10", "delivered": 9}, {"promotion_id": "pr2", "sent": -1}
    )
    reply = api.admin("POST", "/v1/promotions", lines)
    assert reply.json[0] == {"promotion_id": "pr1"}
    assert reply.json[1]["code"] == "400"
    found = api.admin("GET", "/v1/promotions?promotion_id=pr1")
    assert (found.json["name"], found.json["sent"], found.json["delivered"]) == ("Näme", 10, 9)
    assert api.admin("GET", "/v1/promotions?promotion_id=pr1", key=api.rival_key).code == "404"
    assert api.admin("DELETE", "/v1/promotions?promotion_id=pr1", key=api.rival_key).code == "404"
    assert api.admin("DELETE", "/v1/promotions?promotion_id=pr1").status == 200
    assert api.admin("GET", "/v1/promotions?promotion_id=pr1").code == "404"


def test_resolve(api: ApiService) -> None:
    """The dry run shows key, rule, tenant and promotion, or why not; another tenant's link looks like none."""
    api.admin("POST", "/v1/promotions", ndjson({"promotion_id": "p1", "name": "First"}))
    good = resolve(api, f" <{EXAMPLE_URL}>. ")
    assert (good["key"], good["rule"], good["tenant"]) == ("shortdomain/dsltrack/employee/j460A8", "exact", "acme")
    assert (good["promotion_id"], good["recorded"], good["why_not"]) == ("p1", True, None)
    assert good["promotion"]["name"] == "First"  # type: ignore[index]
    below = resolve(api, "http://s.example/campaign/x/y")
    assert (below["key"], below["rule"]) == ("s.example/campaign/x/y", "prefix")
    for name, code in (("disabled", "1010"), ("expired", "1010"), ("old", "1010"), ("nothing", "1003")):
        found = resolve(api, f"http://s.example/{name}")
        assert (found["recorded"], found["code"]) == (False, code)
        assert found["why_not"]
    foreign, none = resolve(api, "http://s.example/rival"), resolve(api, "http://s.example/r1val")
    for name in ("short_url", "key"):
        foreign.pop(name)
        none.pop(name)
    assert foreign == none
    assert resolve(api, "ftp://x/y")["key"] is None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/links"),
        ("GET", "/v1/links"),
        ("GET", "/v1/links?short_url=x"),
        ("DELETE", "/v1/links?short_url=x"),
        ("POST", "/v1/links/resolve"),
        ("POST", "/v1/promotions"),
        ("GET", "/v1/promotions?promotion_id=x"),
        ("DELETE", "/v1/promotions?promotion_id=x"),
    ],
)
def test_needs_the_admin_grant(api: ApiService, method: str, path: str) -> None:
    """No key or a wrong one is 401; a key that only reports clicks is refused."""
    for reply in (api.request(method, path), api.admin(method, path, key="wrong")):
        assert (reply.status, reply.code, reply.headers["www-authenticate"]) == (401, "401", "Bearer")
    refused = api.admin(method, path, b"{}", key=api.click_key)
    assert (refused.status, refused.code) == (403, "403")


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"short-url":1}', b"\xff"])
def test_resolve_needs_a_url(api: ApiService, body: bytes) -> None:
    """400 for anything but an object with a text."""
    assert api.admin("POST", "/v1/links/resolve", body).code == "400"


def listed(api: ApiService, query: str = "", key: str = "") -> tuple[list[str], str | None]:
    """The links of one page, and its cursor."""
    reply = api.admin("GET", f"/v1/links{query}", key=key)
    assert reply.status == 200, reply.body
    assert set(reply.json) == {"links", "next_cursor"}
    return [record["link"] for record in reply.json["links"]], reply.json["next_cursor"]


def test_links_are_listed(api: ApiService) -> None:
    """A page at a time in the order of their keys, as they were registered, a promotion's or all, each tenant its own."""
    urls = [f"http://list.example/{number}" for number in range(5)]
    lines = [{"short_url": url, "promotion_id": f"list{number % 2}"} for number, url in enumerate(urls)]
    api.admin("POST", "/v1/links", ndjson(*reversed(lines)))
    api.admin(
        "POST", "/v1/links", ndjson({"short_url": "http://list.example/1a", "promotion_id": "list1"}), api.rival_key
    )
    first, cursor = listed(api, "?promotion_id=list0&limit=2")
    assert first == ["list.example/0", "list.example/2"]
    assert listed(api, f"?promotion_id=list0&limit=2&cursor={cursor}") == (["list.example/4"], None)
    everything, end = listed(api, "?limit=1000")
    assert end is None
    assert everything == sorted(everything)
    assert {url.removeprefix("http://") for url in urls} < set(everything)
    assert not {"list.example/1a", "s.example/rival"} & set(everything)
    theirs, end = listed(api, key=api.rival_key)
    assert {"list.example/1a", "s.example/rival"} <= set(theirs)
    assert not set(theirs) & set(everything)
    reply = api.admin("GET", "/v1/links?promotion_id=list1&limit=1")
    assert reply.json["links"] == [get_link(api, urls[1]).json]
    assert reply.headers["x-ratelimit-limit"]
    assert listed(api, "?promotion_id=nothing") == ([], None)


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("promotion_id=", "promotion_id"),
        ("promotion=list0", "promotion"),
        ("cursor=!", "cursor"),
        (f"cursor={'A' * 701}", "cursor"),
        ("short_url=http://list.example/0&limit=1", "limit"),
    ],
)
def test_listings_that_are_refused(api: ApiService, query: str, word: str) -> None:
    """Out of its bounds, misspelt, or beside `short_url`: 400 naming it, never a list of something else."""
    reply = api.admin("GET", f"/v1/links?{query}")
    assert reply.code == "400"
    assert word in reply.json["description"]


def test_parameters_and_methods(api: ApiService) -> None:
    """A missing parameter is 400, not 422; other methods are 405 with every method of the path in Allow."""
    assert api.admin("DELETE", "/v1/links").code == "400"
    assert get_link(api, "ftp://x/y").code == "400"
    reply = api.admin("PUT", "/v1/links")
    assert (reply.code, reply.headers["allow"]) == ("405", "DELETE, GET, POST")
    assert api.admin("GET", "/v1/links/resolve").headers["allow"] == "POST"


def test_limits(api: ApiService) -> None:
    """Too many lines or bytes are 413 and nothing is registered."""
    line = json.dumps({"short_url": "http://n.example/limit", "promotion_id": "p"}).encode()
    assert api.admin("POST", "/v1/links", b"\n".join([line] * 10_001)).code == "413"
    assert api.admin("POST", "/v1/links", line + b" " * (8 << 20)).code == "413"
    assert get_link(api, "n.example/limit").code == "404"
