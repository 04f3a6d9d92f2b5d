"""Settings are read once, frozen, and refused when they contradict each other."""

from __future__ import annotations

import pytest

from shared.errors import OperatorError
from shared.settings import GROUPS, ApiSettings, ClickHouseSettings, KafkaSettings, RuntimeSettings, load
from shared.settings.group import Group


def test_every_setting_says_what_it_is() -> None:
    """Each field of each group has a description, and no name stands in two groups."""
    names = [name for group in GROUPS for name in group.model_fields]
    assert len(names) == len(set(names))
    assert [
        name for group in GROUPS for name, field in group.model_fields.items() if not (field.description or "").strip()
    ] == []


def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value out of bounds is refused with the variable's name, not replaced by a default."""
    monkeypatch.setenv("CLICKLEDGER_PARTITIONS", "0")
    with pytest.raises(OperatorError, match="CLICKLEDGER_PARTITIONS"):
        load(KafkaSettings)


def test_a_misspelt_variable_is_refused_with_the_likely_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that nothing reads stops the start instead of leaving a default in force."""
    monkeypatch.setenv("CLICKLEDGER_PARTITONS", "12")
    with pytest.raises(OperatorError, match="CLICKLEDGER_PARTITONS is no setting; did you mean CLICKLEDGER_PARTITIONS"):
        load(KafkaSettings)


def test_times_that_contradict_each_other_are_refused_by_both_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat that is longer than a third of the session is refused, naming both settings."""
    monkeypatch.setenv("CLICKLEDGER_KAFKA_HEARTBEAT_MS", "5000")
    with pytest.raises(OperatorError, match=r"KAFKA_HEARTBEAT_MS.*KAFKA_SESSION_TIMEOUT_MS"):
        load(KafkaSettings)


def test_settings_cannot_be_changed() -> None:
    """A group is frozen after it was read."""
    settings = RuntimeSettings()
    with pytest.raises(ValueError, match="frozen"):
        settings.node = "other"  # type: ignore[misc]


def test_a_secret_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords never show in the text of the settings."""
    monkeypatch.setenv("CLICKLEDGER_KAFKA_SASL_PASSWORD", "hunter2")
    assert "hunter2" not in repr(load(KafkaSettings))


@pytest.mark.parametrize(
    ("group", "given", "said"),
    [
        (KafkaSettings, {"KAFKA_SASL_USERNAME": "u"}, "KAFKA_SECURITY_PROTOCOL (PLAINTEXT) sends no user name"),
        (KafkaSettings, {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, "KAFKA_SASL_USERNAME is not set"),
        (ApiSettings, {"API_PORT": "8080", "API_HEALTH_PORT": "8080"}, "API_HEALTH_PORT are both 8080"),
        (ClickHouseSettings, {"CLICKHOUSE_URL": "10.0.0.5:8123/clicks"}, "CLICKHOUSE_URL: must begin with http://"),
        (RuntimeSettings, {"NODE": "rack/7"}, "NODE: must be printable, and without /"),
        (RuntimeSettings, {"NODE": " "}, "NODE: must be printable, and without /"),
    ],
)
def test_what_could_only_be_meant_otherwise_is_refused(
    monkeypatch: pytest.MonkeyPatch, group: type[Group], given: dict[str, str], said: str
) -> None:
    """One line that names the variable and why."""
    for name, value in given.items():
        monkeypatch.setenv(f"CLICKLEDGER_{name}", value)
    with pytest.raises(OperatorError) as refused:
        load(group)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
