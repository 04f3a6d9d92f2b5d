"""Every fault, in the order of the table."""

from __future__ import annotations

from tests.torture.faults import kills
from tests.torture.faults.base import Fault

FAULTS: tuple[Fault, ...] = (*kills.FAULTS,)
BY_NAME = {fault.name: fault for fault in FAULTS}
