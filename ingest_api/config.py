"""Everything that the API is told, read once, contradictions between groups refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shared.errors import OperatorError
from shared.settings import ApiSettings, CatalogSettings, KafkaSettings, RuntimeSettings, load

BESIDE_BODY_BYTES: Final = 32_768
"""Of a raw record, beside the body: the link with its URLs in any script, an agent, the key's names."""
METRICS_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Where the metrics library looks for the folder in which each of several workers counts."""
STOP_MARGIN_MS: Final = 6_000
"""Of a stop's deadline, kept for closing the producer."""


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """The groups that the API needs."""

    runtime: RuntimeSettings
    kafka: KafkaSettings
    catalog: CatalogSettings
    api: ApiSettings

    @classmethod
    def load(cls) -> ServiceSettings:
        """From the environment. Raises OperatorError."""
        settings = cls(load(RuntimeSettings), load(KafkaSettings), load(CatalogSettings), load(ApiSettings))
        if settings.api.api_ack_timeout_ms > settings.serving_stop_ms:
            raise OperatorError(
                f"CLICKLEDGER_API_ACK_TIMEOUT_MS ({settings.api.api_ack_timeout_ms}) must be at most "
                f"CLICKLEDGER_STOP_DEADLINE_MS ({settings.runtime.stop_deadline_ms}) - {STOP_MARGIN_MS}, "
                "else a stop cuts off clicks that are still waiting"
            )
        if settings.api.api_wait_ms_max < settings.api.api_ack_timeout_ms:
            raise OperatorError(
                f"CLICKLEDGER_API_WAIT_MS_MAX ({settings.api.api_wait_ms_max}) must be at least "
                f"CLICKLEDGER_API_ACK_TIMEOUT_MS ({settings.api.api_ack_timeout_ms}), "
                "else clicks behind a batch without acknowledgement are refused before it is given up"
            )
        _refuse_small_batches(settings.kafka, settings.api)
        return settings

    @property
    def serving_stop_ms(self) -> int:
        """Milliseconds that connections may take to end in a stop; at least one second."""
        return max(1_000, self.runtime.stop_deadline_ms - STOP_MARGIN_MS)


def _refuse_small_batches(kafka: KafkaSettings, api: ApiSettings) -> None:
    """A click that no Kafka batch can hold would be taken and then refused for ever."""
    needed = api.api_body_bytes_max + BESIDE_BODY_BYTES
    if needed > kafka.kafka_batch_bytes_max:
        raise OperatorError(
            f"CLICKLEDGER_KAFKA_BATCH_BYTES_MAX ({kafka.kafka_batch_bytes_max}) must be at least "
            f"CLICKLEDGER_API_BODY_BYTES_MAX ({api.api_body_bytes_max}) + {BESIDE_BODY_BYTES}, "
            "else a large click fits no batch"
        )
