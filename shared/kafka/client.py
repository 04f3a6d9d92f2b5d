"""What every client needs: connection settings, the exception map, a bound on closing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from aiokafka import errors as kafka_errors
from aiokafka.helpers import create_ssl_context

from shared.errors import ClickledgerError, DataError, NotOwned, OperatorError, OutcomeUnknown, TransientError
from shared.settings import KafkaSettings

METADATA_AGE_MS: Final = 30_000
"""How old the list of partitions may get before it is asked for again: how soon a grown topic is noticed."""

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

    return create_ssl_context(
        cafile=path(settings.kafka_ssl_cafile),
        certfile=path(settings.kafka_ssl_certfile),
        keyfile=path(settings.kafka_ssl_keyfile),
    )


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
