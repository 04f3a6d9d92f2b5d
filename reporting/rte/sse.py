"""The bytes of server-sent events: what a client gets besides clicks. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import orjson

RETRY_MS: Final = 2_000
"""How long a client should wait before it connects again."""


class Closed(StrEnum):
    """Why a stream ends: closed, one per cause."""

    CLIENT = "client"
    SLOW = "slow"
    STOPPING = "stopping"
    KEY = "key"
    LOST = "lost"
    STREAM_REPLACED = "stream_replaced"
    KAFKA = "kafka"
    TURN_OVER = "turn_over"


WORDS: Final[Mapping[Closed, str]] = {
    Closed.CLIENT: "The client went away.",
    Closed.SLOW: "The client did not keep up and its buffer is full. Resume at the position.",
    Closed.STOPPING: "The service stops. Resume at the position.",
    Closed.KEY: "The key is no longer valid.",
    Closed.LOST: "What comes next is no longer in Kafka. Resuming tells the earliest position.",
    Closed.STREAM_REPLACED: "The topic carries another stream now. Begin anew.",
    Closed.KAFKA: "Kafka does not answer. Resume at the position.",
    Closed.TURN_OVER: "Reading from the past took long and others wait. Resume at the position.",
}


def hello(position: str) -> bytes:
    """The first bytes: when to connect again, and where the stream begins."""
    return b"retry: %d\nid: %b\n\n" % (RETRY_MS, position.encode())


def heartbeat(position: str, remark: str) -> bytes:
    """A sign of life; the client's position goes on although nothing was for it."""
    return b": %b\nid: %b\n\n" % (remark.encode(), position.encode())


def body(event: Mapping[str, object]) -> bytes:
    """An event without its id: JSON has no line breaks."""
    return b"data: %b\n\n" % orjson.dumps(event)


def frame(position: str, event_body: bytes) -> bytes:
    """An event whose id is the position behind it."""
    return b"id: %b\n%b" % (position.encode(), event_body)


def closed(reason: Closed, position: str) -> bytes:
    """The last event of a stream; it has a name of its own, so that no consumer takes it for a click."""
    text = orjson.dumps({"reason": reason, "description": WORDS[reason], "position": position})
    return b"event: closed\ndata: %b\n\n" % text
