"""The alert rules ask for nothing that no service shows, and lead to the runbook."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from clickledger.commands.services import SERVICES
from tests.support.anchors import anchors
from tests.support.shown_metrics import Shown, all_shown_metrics

ROOT = Path(__file__).parents[2]
GROUPS = yaml.safe_load((ROOT / "docs/prometheus/alerts.yml").read_text(encoding="utf-8"))["groups"]
ALERTS: dict[str, dict[str, Any]] = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}
JOBS = {f"clickledger-{service}" for service in SERVICES}
BY_PROMETHEUS = {"job", "instance"}
"""Labels that it gives to each series of a target."""
UP = Shown(frozenset(), ())
"""The one metric that it makes itself."""

each_alert = pytest.mark.parametrize("name", ALERTS)


def names(expression: str) -> list[str]:
    """The metrics in an expression: what is neither a function, a keyword, a label nor a duration."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(?:by|on|group_left) \([^)]*\)", "", expression)
    return re.findall(r"\b(?!(?:and|or|on)\b)[a-z_]+\b(?! *\()", bare)


def matchers(expression: str) -> list[tuple[str, str, str, str]]:
    """(metric, label, operator, value) of each matcher."""
    return [
        (metric, *matcher)
        for metric, inside in re.findall(r"(\w+)\{([^}]*)\}", expression)
        for matcher in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', inside)
    ]


def selected(shown: Shown, metric: str, expression: str) -> list[dict[str, str]]:
    """The series of a metric that its matchers take."""
    mine = [(label, operator, value) for name, label, operator, value in matchers(expression) if name == metric]
    return [
        labels
        for labels in shown.series
        if all(
            bool(re.fullmatch(value if "~" in operator else re.escape(value), labels[label])) is ("!" not in operator)
            for label, operator, value in mine
        )
    ]


def known(metric: str) -> Shown:
    """What is shown of a metric."""
    return UP if metric == "up" else all_shown_metrics()[metric]


def kept_labels(expression: str) -> set[str]:
    """The labels of what an expression gives."""
    if by := re.findall(r"\bby \(([^)]*)\)", expression):
        return {label.strip() for label in by[0].split(",")}
    if re.match(r"(?:sum|max)\(", expression):
        return set()
    return BY_PROMETHEUS.union(*(known(metric).labels for metric in names(expression)))


@each_alert
def test_its_metrics_are_shown(name: str) -> None:
    """Each metric by some service, with the labels that it is asked by and each value that is asked for."""
    expression = ALERTS[name]["expr"]
    assert names(expression)
    for metric in names(expression):
        assert metric == "up" or metric in all_shown_metrics(), metric
    for metric, label, _, value in matchers(expression):
        values = JOBS if label == "job" else {series[label] for series in known(metric).series}
        for alternative in value.split("|"):
            assert any(re.fullmatch(alternative, each) for each in values), f"{metric}: {label} is never {alternative}"
    of_metrics = set[str]().union(*(known(metric).labels for metric in names(expression)))
    for by in re.findall(r"\bby \(([^)]*)\)", expression):
        assert {label.strip() for label in by.split(",")} <= of_metrics | BY_PROMETHEUS


@each_alert
def test_it_says_what_it_means(name: str) -> None:
    """How grave it is, one sentence with labels that are there, and a place in the runbook for each of its series."""
    rule = ALERTS[name]
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert set(rule["labels"]) == {"severity"}
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert re.fullmatch(r"\d+m", rule.get("for", "0m"))
    assert set(rule["annotations"]) == {"summary", "runbook"}
    for text in rule["annotations"].values():
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= kept_labels(rule["expr"])
    page, _, fragment = rule["annotations"]["runbook"].partition("#")
    fragments = {fragment}
    if "$labels" in fragment:
        (metric,) = names(rule["expr"])
        series = selected(known(metric), metric, rule["expr"])
        fragments = {re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: each[found[1]], fragment) for each in series}  # noqa: B023  # used at once
    assert fragments
    assert fragments <= anchors(ROOT / page)


def test_what_passes_by_itself_waits() -> None:
    """An alert on what is now, not on what has happened within a time, is not raised by a single look."""
    for name, rule in ALERTS.items():
        assert "for" in rule or re.search(r"\b(?:increase|changes)\(", rule["expr"]), name


def test_each_alert_has_a_name_of_its_own() -> None:
    """Prometheus would take two of one name; the runbook has one entry."""
    assert len(ALERTS) == sum(len(group["rules"]) for group in GROUPS)


def test_the_documented_jobs_are_the_services() -> None:
    """The example of a configuration in docs/operations.md has them all."""
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/operations.md").read_text(encoding="utf-8"), re.DOTALL)
    assert {job["job_name"] for job in yaml.safe_load(example)["scrape_configs"]} == JOBS


def test_the_runbook_of_each_alarm_is_reached() -> None:
    """Every alarm that a service has leads to its entry, by one rule or another."""
    alarms = known("clickledger_alarms").series
    reached = [
        labels
        for rule in ALERTS.values()
        if "clickledger_alarms" in names(rule["expr"])
        for labels in selected(known("clickledger_alarms"), "clickledger_alarms", rule["expr"])
    ]
    assert [labels for labels in alarms if labels not in reached and labels["reason"] != "seal"] == []
    assert {labels["service"] for labels in alarms} == {"enricher", "sink", "deliverer"}
