"""The runbook has an entry for everything that asks for a human, and names nothing that is not there."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

import pytest
import yaml

from clickledger.audit_spools import SpoolProblem
from enricher.metrics import Alarm as EnricherAlarm
from reporting.webhooks.metrics import Alarm as DelivererAlarm
from sink.watch import Alarm as SinkAlarm
from tests.support.shown_metrics import all_shown_metrics

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")

# Whoever adds a set of reasons that a human must act on adds it here.
COVERED: dict[str, type[StrEnum]] = {
    "sink": SinkAlarm,
    "enricher": EnricherAlarm,
    "deliverer": DelivererAlarm,
    "audit": SpoolProblem,
}
ALERTS = [
    alert
    for group in yaml.safe_load((ROOT / "docs/prometheus/alerts.yml").read_text(encoding="utf-8"))["groups"]
    for alert in group["rules"]
]
PARTS = ("Means", "Check", "Cure", "Cured when")


def entries() -> dict[str, str]:
    """The entries by their heading."""
    found = re.findall(r"^### ([^\n]+)\n(.*?)(?=^#|\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    return {str(head): str(text) for head, text in found}


def test_each_alarm_has_its_entry() -> None:
    """The headings are the reasons of the code, no more and no less, and alerts that lead to them."""
    of_alerts = {head for head in entries() if head.startswith("alert: ")}
    assert set(entries()) - of_alerts == {
        f"{part}: {reason}" for part, reasons in COVERED.items() for reason in reasons
    }
    leads_to_itself = {
        f"alert: {alert['alert']}"
        for alert in ALERTS
        if alert["annotations"]["runbook"].endswith(f"#alert-{alert['alert'].lower()}")
    }
    assert of_alerts == leads_to_itself


@pytest.mark.parametrize("head", entries())
def test_an_entry_says_all_that_is_needed(head: str) -> None:
    """Meaning, check, cure, and how one knows that it is cured, in this order."""
    assert tuple(re.findall(r"^- \*\*(.+?):\*\*", entries()[head], re.MULTILINE)) == PARTS


def test_its_metrics_exist() -> None:
    """Every metric that it names is one that some service has."""
    known = all_shown_metrics()
    shortened = [f"clickledger_api_{rest}" for rest in re.findall(r"…_(\w+)", RUNBOOK)]
    for name in [*re.findall(r"\bclickledger_\w+", RUNBOOK), *shortened]:
        assert {name, f"{name}_total"} & set(known), name
