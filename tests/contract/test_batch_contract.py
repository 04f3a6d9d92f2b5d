"""`POST /v1/clicks` over real HTTP: one result per click in order, never all or nothing by accident."""

from __future__ import annotations

import json
import socket

import pytest

from tests.support.api_service import BATCH, ApiService, Reply
from tests.support.catalog import EXAMPLE_URL

GOOD = json.dumps({"short-url": EXAMPLE_URL}).encode()


def send(api: ApiService, wire: bytes, content_type: str = "application/x-ndjson") -> Reply:
    """A batch with the ordinary key."""
    headers = {"authorization": f"Bearer {api.click_key}", "content-type": content_type}
    return api.request("POST", BATCH, wire, headers)


def codes(reply: Reply) -> list[str]:
    """'' for an accepted click, else its code."""
    assert reply.status == 200, reply
    return ["" if "transaction-id" in result else result["code"] for result in reply.json]


async def test_good_and_bad_lines(api: ApiService) -> None:
    """Bad lines refuse themselves only; good ones are durable when the answer is there, near each other."""
    lines = [GOOD, b"{", b"", b'{"x":1}', GOOD, b'{"short-url":"http://s.example/none"}', b"[]", GOOD]
    reply = send(api, b"\r\n".join(lines))
    assert codes(reply) == ["", "1001", "1002", "", "1003", "1001", ""]
    ids = {result["transaction-id"].encode() for result in reply.json if "transaction-id" in result}
    found = [each for each in await api.raw_records_by_partition() if each[1].key in ids]
    assert len(ids) == len(found) == 3
    assert len({partition for partition, _ in found}) == 1


def test_json_array(api: ApiService) -> None:
    """An array is the same; an array that is no JSON is refused whole."""
    assert codes(send(api, b"[" + GOOD + b', 1, {"short-url":null}]', "application/json")) == ["", "1001", "1002"]
    reply = send(api, b"[" + GOOD, "application/json")
    assert (reply.status, reply.code) == (499, "1001")


async def test_keys_in_lines(api: ApiService) -> None:
    """Each click may carry its own key; the same key twice is the same id."""
    line = json.dumps({"short-url": EXAMPLE_URL, "idempotency-key": "b1"}).encode()
    reply = send(api, line + b"\n" + line + b'\n{"short-url":"' + EXAMPLE_URL.encode() + b'","idempotency-key":"a b"}')
    assert codes(reply) == ["", "", "499"]
    assert reply.json[0] == reply.json[1]


@pytest.mark.parametrize(("count", "status"), [(1_000, 200), (1_001, 499)])
def test_line_limit(api: ApiService, count: int, status: int) -> None:
    """1,000 clicks pass, one more refuses the request and none is taken."""
    reply = send(api, b"\n".join([GOOD] * count))
    assert reply.status == status
    if status == 200:
        assert codes(reply) == [""] * count
        assert len({result["transaction-id"] for result in reply.json}) == count


def test_byte_limits(api: ApiService) -> None:
    """A line over a click's size refuses itself; a body over 1 MiB refuses the request and ends the connection."""
    long = b'{"short-url":"' + EXAMPLE_URL.encode() + b'","x":"' + b"y" * 20_000 + b'"}'
    assert codes(send(api, long + b"\n" + GOOD)) == ["1001", ""]
    reply = send(api, (GOOD + b"\n") * 40_000)
    assert (reply.status, reply.code, reply.headers["connection"]) == (499, "1001", "close")


async def test_half_read_body_is_not_taken(api: ApiService) -> None:
    """A batch whose connection ends before its body leaves nothing behind."""
    before = len(await api.raw_records())
    with socket.create_connection(("127.0.0.1", api.port)) as connection:
        head = f"POST {BATCH} HTTP/1.1\r\nauthorization: Bearer {api.click_key}\r\ncontent-length: 9999\r\n\r\n"
        connection.sendall(head.encode() + GOOD + b"\n" + GOOD + b"\n")
    assert codes(send(api, GOOD)) == [""]
    assert len(await api.raw_records()) == before + 1


def test_refusals_of_the_whole_request(api: ApiService) -> None:
    """Method, authorization, grant, type, an empty body and a key in the header refuse all of it."""
    assert api.request("GET", BATCH).code == "405"
    assert api.request("POST", BATCH, GOOD).code == "498"
    admin = {"authorization": f"Bearer {api.admin_key}"}
    assert api.request("POST", BATCH, GOOD, admin).code == "430"
    assert send(api, GOOD, "text/csv").code == "1001"
    assert send(api, b"\n \n").code == "1001"
    headers = {"authorization": f"Bearer {api.click_key}", "idempotency-key": "x"}
    assert api.request("POST", BATCH, GOOD, headers).code == "499"


def test_by_asgi(api: ApiService) -> None:
    """A percent-encoded path goes by ASGI and gets the same answers."""
    headers = {"authorization": f"Bearer {api.click_key}"}
    assert codes(api.request("POST", "/v1/cl%69cks", GOOD + b"\n{", headers)) == ["", "1001"]
