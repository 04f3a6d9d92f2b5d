"""What each service shows at `/metrics` when it has begun: asked of its own code, in a process of its own."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from typing import Final, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from clickledger.commands.services import SERVICES

_BESIDE: Final = {"api": ("ingest_api.worker", "ingest_api.parent")}
"""What a service's module imports only when it is run: one process, or the parent of several."""
_SHOW: Final = """
import importlib, json, sys, tempfile
from pathlib import Path
from prometheus_client import REGISTRY
from shared.runtime import Runtime, _health_response
from shared.settings import RuntimeSettings
service, *modules = sys.argv[1:]
for module in modules:
    importlib.import_module(module)
with tempfile.TemporaryDirectory() as data:
    answer = _health_response(Runtime(service, RuntimeSettings(data=Path(data))), b"/metrics").decode()
labels = {metric._name: metric._labelnames for metric in REGISTRY._collector_to_names if hasattr(metric, "_labelnames")}
print(json.dumps([answer.partition("\\r\\n\\r\\n")[2], labels]))
"""


class Shown(NamedTuple):
    """A metric as queries name it."""

    labels: frozenset[str]
    series: tuple[dict[str, str], ...]
    """The labels of each series that stands from the start."""


@functools.cache
def shown_metrics(service: str) -> dict[str, Shown]:
    """By name, of one service."""
    modules = (SERVICES[service][0], *_BESIDE.get(service, ()))
    done = subprocess.run([sys.executable, "-c", _SHOW, service, *modules], check=True, capture_output=True, text=True)
    text, labels = json.loads(done.stdout)
    shown: dict[str, Shown] = {}
    for family in text_string_to_metric_families(text):
        series: dict[str, list[dict[str, str]]] = {}
        if family.type == "counter":
            series[f"{family.name}_total"] = []
        elif family.type == "gauge":
            series[family.name] = []
        for sample in family.samples:
            series.setdefault(sample.name, []).append(sample.labels)
        for name, found in series.items():
            names = {*labels.get(family.name, ()), *(label for each in found for label in each)}
            shown[name] = Shown(frozenset(names), tuple(found))
    return shown


def all_shown_metrics() -> dict[str, Shown]:
    """By name, of all services."""
    merged: dict[str, Shown] = {}
    for service in SERVICES:
        for name, shown in shown_metrics(service).items():
            before = merged.get(name, Shown(frozenset(), ()))
            merged[name] = Shown(before.labels | shown.labels, before.series + shown.series)
    return merged
