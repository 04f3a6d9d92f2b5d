"""Requests as bytes, mutated anywhere, and what came back on the wire, taken apart strictly."""

from __future__ import annotations

import json
import re
import socket
from typing import Any, NamedTuple

from hypothesis import strategies as st

TOKENS = (
    *(
        b"\r\n",
        b"\n",
        b"\r\n\r\n",
        b"\x00",
        b" ",
        b"\t",
        b":",
        b"%",
        b"?",
        b"#",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
    ),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n", b"Content-Length: 0\r\n"),
    *(b"Content-Length: 99999999999\r\n", b"Content-Length: -1\r\n", b"Content-Length: 5\r\n"),
    *(
        b"Connection: close\r\n",
        b"Connection: upgrade\r\nUpgrade: h2c\r\n",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
    ),
    *(
        b"Expect: 100-continue\r\n",
        b"Content-Encoding: gzip\r\n",
        b"Content-Type: text/plain\r\n",
        b"Idempotency-Key: k\r\n",
    ),
    *(b"Authorization: Bearer x\r\n", b"X-Forwarded-For: a, ::1, 1.2.3.4:5\r\n", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9"),
    *(b"5\r\nhello\r\n0\r\n\r\n", b"0\r\nx: y\r\n\r\n", b"ffffffffffffffff\r\n", b"1;a=b\r\nx\r\n"),
    *(b"null", b"[", b"{", b'"', b"\\u0000", b"\\ud800", b"1e999", b"-0", b"NaN", b'{"a":' * 50, b"[" * 2_000),
    *(b"http://[::1", b"//", b"/..", b"/%2e%2e/", b"http://x/y", b"*", b"xn--", "\u3002".encode(), b"a" * 3_000),
)
METHODS = (
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"DELETE",
    b"PATCH",
    b"OPTIONS",
    b"TRACE",
    b"CONNECT",
    b"PRI",
    b"post",
    b"M-SEARCH",
)


@st.composite
def mutations(draw: st.DrawFn, originals: tuple[bytes, ...]) -> list[bytes]:
    """One to three requests behind each other, each changed in up to four places, cut anywhere into pieces."""
    wire = b"".join(_mutated(draw, draw(st.sampled_from(originals))) for _ in range(draw(st.integers(1, 3))))
    cuts = sorted(draw(st.lists(st.integers(0, len(wire)), max_size=3)))
    return [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True) if end > start]


def _mutated(draw: st.DrawFn, wire: bytes) -> bytes:
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(wire)))
        to = min(len(wire), at + draw(st.integers(0, 40)))
        match draw(st.integers(0, 4)):
            case 0:
                wire = wire[:at] + draw(st.sampled_from(TOKENS)) + wire[at:]
            case 1:
                wire = wire[:at] + draw(st.binary(max_size=8)) + wire[to:]
            case 2:
                wire = wire[:at] + wire[to:]
            case 3:
                wire = wire[:to] + wire[at:to] + wire[to:]
            case _:
                wire = draw(st.sampled_from(METHODS)) + b" " + wire.partition(b" ")[2]
    return wire


class WireAnswer(NamedTuple):
    """One answer as it stood on the wire."""

    status: int
    fields: dict[bytes, bytes]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


def exchange(port: int, pieces: list[bytes]) -> bytes:
    """Send the pieces, say that there is no more, and read until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20.0) as sock:
        received = b""
        try:
            for piece in pieces:
                sock.sendall(piece)
            sock.shutdown(socket.SHUT_WR)
        except OSError:  # the server has refused and closed already; its answer is still there to be read
            pass
        try:
            while data := sock.recv(65_536):
                received += data
        except ConnectionResetError:
            pass
        return received


def take_apart(received: bytes, *, may_be_head: bool) -> list[WireAnswer]:
    """Every answer, with its whole body. `may_be_head`: a body may be missing, as in answers to HEAD."""
    answers = []
    while received:
        head, end, received = received.partition(b"\r\n\r\n")
        assert end, head
        line, *lines = head.split(b"\r\n")
        found = re.fullmatch(rb"HTTP/1\.1 (\d{3}) ?.*", line)
        assert found, line
        status = int(found[1])
        if status == 100:
            continue
        fields = {name.lower(): text for name, text in (each.split(b": ", 1) for each in lines)}
        length = int(fields[b"content-length"])
        if may_be_head and (not received or received.startswith(b"HTTP/1.1 ")):
            length = 0
        assert len(received) >= length
        answers.append(WireAnswer(status, fields, received[:length]))
        received = received[length:]
    return answers
