"""The enricher's loop with one of its rules taken out, for tests that must notice it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from enricher.refill import Position
from enricher.worker import PartitionWorker
from shared.errors import TransientError
from shared.kafka import Record
from tests.support.enricher_model import ModelProducing


class CommitsBeforeTheAcknowledgement(PartitionWorker[ModelProducing]):
    """Commits a batch, then sends it."""

    async def _pass_on(self, records: Sequence[Record]) -> None:
        done = 0
        while done < len(records):
            producer = await self._producing.get()
            batch, _counts, taken = await self._fill(producer, records, done)
            done += taken
            self._position = Position(records[done - 1].offset + 1, self._position.done)
            await self._commit()
            await producer.send_batch(self._topic, self._partition, batch)


class SendsTheNextBeforeTheAcknowledgement(PartitionWorker[ModelProducing]):
    """Sends the next batch although the one before was not acknowledged; commits only when all were."""

    async def _pass_on(self, records: Sequence[Record]) -> None:
        done, unacknowledged = 0, None
        while done < len(records):
            producer = await self._producing.get()
            batch, _counts, taken = await self._fill(producer, records, done)
            try:
                await producer.send_batch(self._topic, self._partition, batch)
            except TransientError as exc:
                unacknowledged = exc
            done += taken
        if unacknowledged is not None:
            raise unacknowledged
        self._position = Position(records[done - 1].offset + 1, self._position.done)
        await self._commit()


class GoesOnWhereItWas(PartitionWorker[ModelProducing]):
    """After a failure it goes on behind the batch, instead of going back to the committed position."""

    async def _pass_on(self, records: Sequence[Record]) -> None:
        try:
            await super()._pass_on(records)
        except TransientError:
            self._position = Position(records[-1].offset + 1, self._position.done)


MUTANTS: Final[tuple[type[Any], ...]] = (
    CommitsBeforeTheAcknowledgement,
    SendsTheNextBeforeTheAcknowledgement,
    GoesOnWhereItWas,
)
