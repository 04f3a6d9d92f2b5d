"""The error tree: one class for each thing that the caller must do.

Expected outcomes (a refused click, a duplicate) are values, not errors. Anything that is not a `ClickledgerError` is a
bug: the process ends, its offsets are uncommitted and nothing is lost.
"""

from __future__ import annotations


class ClickledgerError(Exception):
    """Base of everything this project raises on purpose. The message says what, which and against which limit."""


class TransientError(ClickledgerError):
    """The environment failed for now. Do not commit; back off with jitter, pause, keep the heartbeat, try again."""


class OutcomeUnknown(TransientError):
    """The request may or may not have taken effect. Ask before doing it again."""


class ClientBroken(TransientError):
    """A client's background task has died: this object never works again. Close it and build another."""


class OperatorError(ClickledgerError):
    """A human must change something (password, schema, disk, setting). Pause and raise an alarm; never drop data."""


class DataError(ClickledgerError):
    """This record can never pass. It becomes a row that says so."""


class NotOwned(ClickledgerError):
    """The partition belongs to another member of the group by now. Drop the work; its owner does it."""


class StreamReplaced(ClickledgerError):
    """The raw topic carries another stream by now: end at once, and start again with that one."""


class OffsetLost(OperatorError):
    """Records between the wanted and the earliest kept offset are gone. Stop the partition and name the range."""

    def __init__(self, topic: str, partition: int, wanted: int, earliest: int) -> None:
        super().__init__(
            f"{topic}/{partition}: offsets {wanted} to {earliest - 1} are no longer in Kafka (retention); "
            f"the earliest is {earliest}"
            if earliest > wanted
            else f"{topic}/{partition}: offset {wanted} lies beyond the end, so the topic was cut or made anew; "
            f"the earliest is {earliest}"
        )
        self.topic, self.partition, self.wanted, self.earliest = topic, partition, wanted, earliest
