"""Alarms: what stands still until a human acts. Logged once per text, counted, and shown in readiness until cleared."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from enum import StrEnum
from pathlib import Path
from typing import Final, Generic, TypeVar

from shared.metrics import alarms, alarms_raised

A = TypeVar("A", bound=StrEnum)

SILENCE_S: Final = 30.0
"""An error that ought to pass has not, after so long; nor has Kafka's silence."""
LOOK_EVERY_S: Final = 1.0


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
            self._log.error("%s: alarm (%s): %s", self.name, alarm, detail)
        if alarm not in self.standing:
            alarms.labels(self._service, alarm).inc()
            alarms_raised.labels(self._service, alarm).inc()
        self.standing[alarm] = detail

    def clear_alarm(self, alarm: A) -> None:
        """It goes on."""
        if self.standing.pop(alarm, None) is not None:
            alarms.labels(self._service, alarm).dec()
            self._log.warning("%s: alarm (%s) is over", self.name, alarm)

    def drop(self) -> None:
        """The part is not ours any more: its alarms are its next owner's."""
        for alarm in list(self.standing):
            self.standing.pop(alarm)
            alarms.labels(self._service, alarm).dec()
            self._log.warning(
                "%s: alarm (%s) is not this member's any more: it is over, or the next owner raises it",
                self.name,
                alarm,
            )


class Silence(Alarms[A]):
    """Raises an alarm while Kafka says nothing. Without it a service with nothing to write would not notice that it is away."""

    def __init__(self, service: str, alarm: A, bootstrap: str, logger: logging.Logger) -> None:
        super().__init__(service, "Kafka", logger)
        self._alarm, self._bootstrap = alarm, bootstrap

    def why_not_ready(self) -> str:
        """What stands, for readiness."""
        return "; ".join(self.standing.values())

    async def watch(self, heard: Path) -> None:
        """Look again and again at the file that is touched when the catalog's copy is level with its topic; until cancelled."""
        began_s = time.time()
        while True:
            with contextlib.suppress(FileNotFoundError):  # no copy yet, which the service says itself
                silent_s = time.time() - max(began_s, heard.stat().st_mtime)  # noqa: ASYNC240  # a look at an inode
                if silent_s > SILENCE_S:
                    self.raise_alarm(
                        self._alarm,
                        f"for {SILENCE_S:.0f} s the copy of the catalog has not been level with its topic: does Kafka at "
                        f"{self._bootstrap} (CLICKLEDGER_KAFKA_BOOTSTRAP) answer?",
                    )
                else:
                    self.clear_alarm(self._alarm)
            await asyncio.sleep(LOOK_EVERY_S)
