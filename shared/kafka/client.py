"""What every client needs: connection settings, the exception map, records, what makes a client broken, bounded closing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka_errors
from aiokafka.helpers import create_ssl_context

from shared.errors import (
    ClickledgerError,
    ClientBroken,
    DataError,
    NotOwned,
    OffsetLost,
    OperatorError,
    OutcomeUnknown,
    TransientError,
)
from shared.kafka import answers, fetched
from shared.settings import KafkaSettings

METADATA_AGE_MS: Final = 30_000
"""How old the list of partitions may get before it is asked for again: how soon a grown topic is noticed."""

FETCH_WAIT_MS = 100
"""How long a fetch may wait for a first byte at the broker; a seek or resume waits for the running fetch."""

_GATHERED_BYTES: Final = 256 << 10
"""What is worth a fetch of its own, however long more was to be waited for: some 200 enriched records."""

_CLOSED_TRANSPORT: Final = "the handler is closed"
"""What uvloop's RuntimeError says of a write to a connection that is gone; asyncio's own loop raises nothing."""

_OPERATOR: Final = (
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.GroupAuthorizationFailedError,
    kafka_errors.ClusterAuthorizationFailedError,
    kafka_errors.TransactionalIdAuthorizationFailed,
    kafka_errors.AuthenticationFailedError,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.IllegalSaslStateError,
    kafka_errors.InvalidTopicError,
    kafka_errors.InvalidConfigurationError,
    kafka_errors.InvalidReplicationFactorError,
    kafka_errors.PolicyViolationError,
    kafka_errors.InvalidSessionTimeoutError,
    kafka_errors.IncompatibleBrokerVersion,
    kafka_errors.UnsupportedVersionError,
)
_NOT_OWNED: Final = (
    kafka_errors.CommitFailedError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.UnknownMemberIdError,
    kafka_errors.RebalanceInProgressError,
    kafka_errors.IllegalStateError,
)
_DATA: Final = (
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.RecordListTooLargeError,
)
_UNKNOWN_OUTCOME: Final = (
    kafka_errors.KafkaTimeoutError,
    kafka_errors.RequestTimedOutError,
    kafka_errors.KafkaConnectionError,
    kafka_errors.OutOfOrderSequenceNumber,
    kafka_errors.UnknownProducerId,
    kafka_errors.NotEnoughReplicasAfterAppendError,
    kafka_errors.ProducerClosed,
)


class Record(Protocol):
    """One Kafka record. `timestamp` in ms."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


def connection(settings: KafkaSettings) -> dict[str, Any]:
    """The keyword arguments that every aiokafka client takes."""
    tls = settings.kafka_security_protocol in ("SSL", "SASL_SSL")
    sasl = settings.kafka_security_protocol.startswith("SASL")
    return {
        "bootstrap_servers": settings.kafka_bootstrap,
        "request_timeout_ms": settings.kafka_request_timeout_ms,
        "metadata_max_age_ms": METADATA_AGE_MS,
        "retry_backoff_ms": 100,
        "connections_max_idle_ms": 540_000,
        "security_protocol": settings.kafka_security_protocol,
        "ssl_context": _tls(settings) if tls else None,
        "sasl_mechanism": settings.kafka_sasl_mechanism,
        "sasl_plain_username": settings.kafka_sasl_username if sasl else None,
        "sasl_plain_password": settings.kafka_sasl_password.get_secret_value() if sasl else None,
    }


def _tls(settings: KafkaSettings) -> Any:
    def path(value: object) -> str | None:
        return str(value) if value else None

    files = {
        "cafile": path(settings.kafka_ssl_cafile),
        "certfile": path(settings.kafka_ssl_certfile),
        "keyfile": path(settings.kafka_ssl_keyfile),
    }
    try:
        return create_ssl_context(**files)
    except OSError as exc:
        named = ", ".join(f"CLICKLEDGER_KAFKA_SSL_{name.upper()} ({file})" for name, file in files.items() if file)
        raise OperatorError(f"{named}: no TLS with these files: {exc}") from exc


def map_error(exc: BaseException, what: str, *, writing: bool = False) -> ClickledgerError:
    """Our error for one of the library's. `writing`: a failure leaves open whether the request took effect."""
    name, text = type(exc).__name__, str(exc)
    message = f"{what}: " + (text if text.startswith(name) else f"{name}: {text or 'no answer in time'}")
    if isinstance(exc, _OPERATOR):
        return OperatorError(message)
    if isinstance(exc, _NOT_OWNED):
        return NotOwned(message)
    if isinstance(exc, _DATA):
        return DataError(message)
    if writing and isinstance(exc, (*_UNKNOWN_OUTCOME, TimeoutError)):
        return OutcomeUnknown(message)
    return TransientError(message)


@contextmanager
def mapped(what: str, *, writing: bool = False) -> Iterator[None]:
    """Raise our class for whatever the library raises inside; `what` names the topic, partition or group."""
    try:
        yield
    except (kafka_errors.KafkaError, TimeoutError, OSError) as exc:
        raise map_error(exc, what, writing=writing) from exc
    except RuntimeError as exc:
        if _CLOSED_TRANSPORT not in str(exc):
            raise
        raise map_error(kafka_errors.KafkaConnectionError(str(exc)), what, writing=writing) from exc


async def bounded(closing: Any, deadline_s: float) -> bool:
    """Await `closing` for at most `deadline_s` seconds; False when it did not end. Its own errors no longer matter."""
    task = asyncio.ensure_future(closing)
    done, _ = await asyncio.wait([task], timeout=deadline_s)
    if not done:
        task.cancel()
        await asyncio.wait([task], timeout=1)
        return False
    if not task.cancelled():
        task.exception()
    return True


def refuse_broken(consumer: AIOKafkaConsumer, what: str) -> None:
    """Raise ClientBroken when one of the library's background tasks has ended: nobody there starts it again.

    Seen with a broker killed at the wrong moment: uvloop raises RuntimeError for a write to a closed transport, the
    library expects OSError, and its coordination (or heartbeat, fetch, metadata) task dies of it.
    """
    coordinator = consumer._coordinator
    tasks = {
        "coordination": getattr(coordinator, "_coordination_task", None),
        "heartbeat": getattr(coordinator, "_heartbeat_task", None),
        "fetch": consumer._fetcher and consumer._fetcher._fetch_task,
        "metadata": consumer._client._sync_task,
    }
    for name, task in tasks.items():
        if task is not None and task.done() and not task.cancelled() and task.exception() is not None:
            raise ClientBroken(f"{what}: the client's {name} task ended: {task.exception()}")


async def fetched_records(
    consumer: AIOKafkaConsumer, wanted: Sequence[TopicPartition], timeout_ms: int, what: str
) -> dict[int, list[Record]]:
    """The fetched records of the wanted partitions (none named: all). Errors as `Consumer.getmany`."""
    refuse_broken(consumer, what)
    try:
        with mapped(what):
            received = await consumer.getmany(*wanted, timeout_ms=timeout_ms)
    except TransientError as exc:
        if isinstance(exc.__cause__, kafka_errors.OffsetOutOfRangeError):
            raise await lost_offsets(consumer, exc.__cause__) from exc
        refuse_broken(consumer, what)
        raise
    return {tp.partition: records for tp, records in received.items()}


def gather(consumer: AIOKafkaConsumer, records: int, gather_ms: int) -> None:
    """After a fetch that brought records have the brokers wait so long for more before they answer the next one.

    A fetch of a few records costs broker and reader more than its records do. After one that brought none, they answer with the
    first record that comes: after a silence nobody waits.
    """
    fetcher = consumer._fetcher
    bytes_min = min(
        _GATHERED_BYTES, fetcher._max_partition_fetch_bytes
    )  # as one partition may give: a backlog never waits
    fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms = (bytes_min, gather_ms) if records else (1, FETCH_WAIT_MS)


async def start_consumer(consumer: AIOKafkaConsumer, what: str, settings: KafkaSettings) -> None:
    """Connect within the request time-out, or close what a failed start opened."""
    answers.install()
    fetched.install()
    try:
        with mapped(what):
            await asyncio.wait_for(consumer.start(), settings.kafka_request_timeout_ms / 1000)
    except BaseException:  # a cancellation, too, must not leave connections open
        await bounded(consumer.stop(), 1)
        raise


async def lost_offsets(consumer: AIOKafkaConsumer, exc: kafka_errors.OffsetOutOfRangeError) -> Exception:
    """OffsetLost with both ends of the lost range; TransientError while the earliest kept offset is unknown."""
    ((tp, wanted),) = exc.args[0].items()
    try:
        earliest = (await consumer.beginning_offsets([tp]))[tp]
    except (kafka_errors.KafkaError, OSError) as error:
        return TransientError(f"{tp.topic}/{tp.partition}: offset {wanted} is out of range, earliest unknown: {error}")
    return OffsetLost(tp.topic, tp.partition, wanted, earliest)
