"""Why the API is not ready, in words for an operator."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ingest_api.readiness import Readiness


@pytest.mark.parametrize(
    ("catalog", "reasons"),
    [
        ({"version": -1, "is_complete": False}, ["the catalog was not read yet"]),
        ({"version": 7, "is_complete": False}, ["the catalog was not read to its end yet"]),
        ({"version": 7, "is_complete": True}, ["the catalog is too old: no news from Kafka for 90 s"]),
        ({"version": 7, "is_complete": True, "is_ready": True}, ["no Kafka"]),
    ],
)
def test_reasons(catalog: dict[str, Any], reasons: list[str]) -> None:
    """A catalog that is not there, not whole or too old each has its own words; then Kafka is asked."""
    found = SimpleNamespace(**({"is_ready": False, "age_ms": 90_000} | catalog))
    commit = SimpleNamespace(why_not_ready=lambda: "no Kafka")
    assert Readiness(cast("Any", found), cast("Any", commit), lambda: False).reasons() == reasons
    assert Readiness(cast("Any", found), cast("Any", commit), lambda: True).reasons() == ["stopping"]
