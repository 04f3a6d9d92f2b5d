"""Prometheus metrics that every service has; services add their own beside their code.

Counters carry a `reason` from a closed enum, never free text. Nothing here is touched once per click on a hot path:
callers add per batch. What has a closed set of reasons stands at 0 from the start (`begin`): Prometheus takes the first
value of a series for where it began, so that `increase()` does not see a counter that appears at 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import Counter, Gauge

errors = Counter("clickledger_errors", "Errors handled, by what the service did about them", ["service", "kind"])
KINDS: Final = ("transient", "operator", "unknown_outcome", "bug")
"""`kind`; bug: of ours, and the work was done another way."""
alarms = Gauge("clickledger_alarms", "Alarms that stand now and need a human, by reason", ["service", "reason"])
alarms_raised = Counter("clickledger_alarms_raised", "How often an alarm began, by reason", ["service", "reason"])
catalog_version = Gauge(
    "clickledger_catalog_version", "Offset of the last applied catalog record", ["service"], multiprocess_mode="livemin"
)
"""Of several workers that of the one most behind; so is the age."""
catalog_age = Gauge(
    "clickledger_catalog_age_seconds",
    "Since the catalog was proved level with its topic",
    ["service"],
    multiprocess_mode="livemax",
)


def begin(service: str, reasons: Iterable[str]) -> None:
    """Have a service's errors and alarms stand at 0."""
    for kind in KINDS:
        errors.labels(service, kind)
    for reason in reasons:
        alarms.labels(service, reason)
        alarms_raised.labels(service, reason)
