"""Prometheus metrics that every service has; services add their own beside their code.

Counters carry a `reason` from a closed enum, never free text. Nothing here is touched once per click on a hot path:
callers add per batch. What has a closed set of reasons stands at 0 from the start (`begin`): Prometheus takes the first
value of a series for where it began, so that `increase()` does not see a counter that appears at 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
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
group_assignments = Counter("clickledger_group_assignments", "Times a group told a member its partitions", ["service"])
group_revocations = Counter(
    "clickledger_group_revocations", "Times a member had to give up its partitions, by why", ["service", "reason"]
)
group_commits_refused = Counter(
    "clickledger_group_commits_refused", "Commits refused since the group had gone on without the member", ["service"]
)


class Revoked(StrEnum):
    """Why a member of a group gave up its partitions."""

    REBALANCE = "rebalance"
    """The group shares them out anew: a member came or went, or partitions were added."""
    THROWN_OUT = "thrown_out"
    """The group had gone on without it: not heard of within the session time-out, or another process has its name."""
    CLOSED = "closed"
    """It ended by itself."""


def begin(service: str, reasons: Iterable[str]) -> None:
    """Have what a service that is a member of a group counts, and its alarms, stand at 0."""
    for kind in KINDS:
        errors.labels(service, kind)
    for reason in reasons:
        alarms.labels(service, reason)
        alarms_raised.labels(service, reason)
    group_assignments.labels(service)
    for why in Revoked:
        group_revocations.labels(service, why)
    group_commits_refused.labels(service)
