"""Every fault, in the order of the table."""

from __future__ import annotations

from tests.torture.faults import clickhouse, kills, overload, pauses, takeovers
from tests.torture.faults.base import Fault

FAULTS: tuple[Fault, ...] = (*kills.FAULTS, *takeovers.FAULTS, *pauses.FAULTS, *clickhouse.FAULTS, *overload.FAULTS)
BY_NAME = {fault.name: fault for fault in FAULTS}
