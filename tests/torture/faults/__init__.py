"""Every fault, in the order of the table."""

from __future__ import annotations

from tests.torture.faults import (
    brokers,
    clickhouse,
    clocks,
    kills,
    overload,
    pauses,
    poison,
    spools,
    storm,
    sweep,
    takeovers,
)
from tests.torture.faults.base import Fault

FAULTS: tuple[Fault, ...] = (
    *kills.FAULTS,
    *takeovers.FAULTS,
    *pauses.FAULTS,
    *brokers.FAULTS,
    *clickhouse.FAULTS,
    *storm.FAULTS,
    *spools.FAULTS,
    *poison.FAULTS,
    *clocks.FAULTS,
    *overload.FAULTS,
    *sweep.FAULTS,
)
BY_NAME = {fault.name: fault for fault in FAULTS}
