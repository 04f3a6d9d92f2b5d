"""Alarms: what stands still until a human acts. Logged once per text, counted, and shown in readiness until cleared."""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import Generic, TypeVar

from shared.metrics import alarms, alarms_raised

A = TypeVar("A", bound=StrEnum)


class Alarms(Generic[A]):
    """The alarms of one part of a service (a partition, the start), each of a closed set of reasons."""

    def __init__(self, service: str, part: str, logger: logging.Logger) -> None:
        """`part` names it in log lines."""
        self._service, self._log = service, logger
        self.name = part
        self.standing: dict[A, str] = {}
        """What stands now, in words for an operator."""

    def raise_alarm(self, alarm: A, detail: str) -> None:
        """It needs a human: logged when it is new or its text changed."""
        if self.standing.get(alarm) != detail:
            self._log.error("%s stands still (%s): %s", self.name, alarm, detail)
        if alarm not in self.standing:
            alarms.labels(self._service, alarm).inc()
            alarms_raised.labels(self._service, alarm).inc()
        self.standing[alarm] = detail

    def clear_alarm(self, alarm: A) -> None:
        """It goes on."""
        if self.standing.pop(alarm, None) is not None:
            alarms.labels(self._service, alarm).dec()
            self._log.warning("%s goes on (%s is over)", self.name, alarm)

    def drop(self) -> None:
        """The part is not ours any more: its alarms are its next owner's."""
        for alarm in list(self.standing):
            self.standing.pop(alarm)
            alarms.labels(self._service, alarm).dec()
