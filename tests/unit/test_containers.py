"""docker-compose.yml and Dockerfile, as far as they can be checked without an engine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from clickledger.commands.services import SERVICES
from clickledger.commands.settings import rows

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
KNOWN = {name for name, *_ in rows()}
OURS = {"setup", *SERVICES}

# The keys of the compose specification that we use; an unknown or misspelt key would be ignored by some engines.
SERVICE_KEYS = {
    *("image", "build", "command", "environment", "depends_on", "healthcheck", "ports", "volumes"),
    *("restart", "stop_grace_period", "ulimits"),
}


def variables() -> set[str]:
    """Every CLICKLEDGER_* variable that a container gets, from compose or the image."""
    given = {name for service in COMPOSE["services"].values() for name in service.get("environment", {})}
    return {name for name in given if name.startswith("CLICKLEDGER_")} | set(re.findall(r"CLICKLEDGER_\w+", DOCKERFILE))


def test_every_variable_is_a_setting() -> None:
    """A misspelt variable would be ignored in silence."""
    assert len(variables()) > 5
    assert variables() - KNOWN == set()


def test_every_service_runs_with_ours_or_an_official_image() -> None:
    """Kafka and ClickHouse from their projects, pinned; everything else from our Dockerfile."""
    for name, service in COMPOSE["services"].items():
        expected = "clickledger:local" if name in OURS else r"(apache/kafka|clickhouse/clickhouse-server):[\d.]+"
        assert re.fullmatch(expected, service["image"]), name
    assert set(COMPOSE["services"]) >= OURS


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_commands_exist(name: str) -> None:
    """The container's command is a command of the program."""
    assert COMPOSE["services"][name]["command"] == [name]


def test_structure() -> None:
    """Known keys, known dependencies, declared volumes, text as environment values."""
    for name, service in COMPOSE["services"].items():
        assert set(service) <= SERVICE_KEYS, name
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"]), name
        assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= set(COMPOSE["volumes"]), name
        assert all(isinstance(text, str) for text in service.get("environment", {}).values()), name


def test_services_start_after_setup_and_setup_after_the_servers() -> None:
    """The order of the local stack."""
    for name in SERVICES:
        assert COMPOSE["services"][name]["depends_on"] == {"setup": {"condition": "service_completed_successfully"}}
    assert {each["condition"] for each in COMPOSE["services"]["setup"]["depends_on"].values()} == {"service_healthy"}


def test_three_brokers_lose_no_acknowledged_click() -> None:
    """Replication and in-sync minimum of the brokers agree with what setup makes."""
    brokers = [each for name, each in COMPOSE["services"].items() if name.startswith("kafka-")]
    assert len(brokers) == 3
    for broker in brokers:
        environment = broker["environment"]
        assert environment["KAFKA_MIN_INSYNC_REPLICAS"] == "2"
        assert environment["KAFKA_UNCLEAN_LEADER_ELECTION_ENABLE"] == "false"
        assert environment["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    assert COMPOSE["services"]["setup"]["environment"]["CLICKLEDGER_REPLICATION_FACTOR"] == "3"


def test_no_secret_is_written_down() -> None:
    """Passwords are interpolated from the caller's environment, and a missing one stops the start."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert re.findall(r"PASSWORD: (?!\$\{CLICKHOUSE_PASSWORD:\?)", text) == []
    assert "PASSWORD" not in DOCKERFILE
    assert "SECRET" not in DOCKERFILE


def test_only_those_who_need_the_database_have_its_password() -> None:
    """The API, which the world talks to, and the enricher never ask ClickHouse anything."""
    have = {name for name, each in COMPOSE["services"].items() if "CLICKLEDGER_CLICKHOUSE_URL" in each["environment"]}
    assert have == {"setup", "sink", "reporting"}


def test_the_image_runs_as_another_user_with_a_health_check() -> None:
    """The last user is not root; the image knows how to ask for readiness."""
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE) == ["clickledger"]
    assert "HEALTHCHECK" in DOCKERFILE


def test_the_image_holds_every_package_and_only_those() -> None:
    """What the wheel contains is what the Dockerfile copies, and nothing else reaches the engine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    copied = {line.split()[1] for line in DOCKERFILE.splitlines() if re.fullmatch(r"COPY (\w+) \1", line)}
    sent = {
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")
    }
    assert copied == packages
    assert sent == packages | {"LICENSE", "README.md", "pyproject.toml", "requirements.lock"}
