"""What each answer means for the books of `send --verify`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickledger.load.answers import UNREADABLE, Accepted, Refused, Uncertain, read_answer, read_batch_answer

_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
_OK = f'{{"transaction-id":"{_ID}"}}'.encode()


def _refusal(code: str) -> bytes:
    return f'{{"code":"{code}","description":"x"}}'.encode()


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, _OK, Accepted(_ID)),
        (200, _refusal("1010"), Refused("1010")),
        (499, _refusal("1003"), Refused("1003")),
        (429, _refusal("429"), Refused("429")),
        (401, b'{"code":498,"description":"integer codes are a setting"}', Refused("498")),
        (500, _refusal("500"), Uncertain("500")),
        (503, _refusal("503"), Uncertain("503")),
        (500, _OK, Uncertain(UNREADABLE)),
        (200, b'{"transaction-id":"no uuid"}', Uncertain(UNREADABLE)),
        (200, b"{}", Uncertain(UNREADABLE)),
        (200, b"[]", Uncertain(UNREADABLE)),
        (502, b"<html>", Uncertain(UNREADABLE)),
    ],
)
def test_single_answers(status: int, body: bytes, outcome: object) -> None:
    """Only a 200 with an id promises a row, only a refusal in the contract's shape promises none."""
    assert read_answer(status, body) == outcome


def test_batch_answers_are_per_line() -> None:
    """Ids and refusals in order; a line's 500 is uncertain."""
    body = b'{"results":[' + b",".join([_OK, _refusal("1003"), _refusal("500")]) + b"]}"
    assert read_batch_answer(200, body, 3) == [Accepted(_ID), Refused("1003"), Uncertain("500")]


@pytest.mark.parametrize("body", [b'{"results":[]}', b"[" + _OK + b"]", b"null"])
def test_a_batch_answer_of_the_wrong_length_settles_nothing(body: bytes) -> None:
    """Nobody may guess which line an id belongs to."""
    assert read_batch_answer(200, body, 2) == [Uncertain(UNREADABLE)] * 2


def test_a_refused_batch_refuses_every_line() -> None:
    """401 for the request is 401 for each click."""
    assert read_batch_answer(401, _refusal("498"), 2) == [Refused("498")] * 2


@given(st.integers(100, 599), st.binary(max_size=100))
def test_reading_never_raises(status: int, body: bytes) -> None:
    """Any bytes have an outcome."""
    read_answer(status, body)
    assert len(read_batch_answer(status, body, 3)) == 3
