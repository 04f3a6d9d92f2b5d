"""What no slowness of a machine can excuse: a test that finds it gets no second try (tests/conftest.py)."""

from __future__ import annotations


class PromiseBroken(AssertionError):
    """A click is lost or doubled, or an order that this rests on does not hold."""


def promised(kept: object, what: object) -> None:
    """Fail for good unless `kept`."""
    if not kept:
        raise PromiseBroken(str(what))
