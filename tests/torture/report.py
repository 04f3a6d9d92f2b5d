"""The table of docs/reliability.md, made from docs/torture.json: `python -m tests.torture.report` writes it anew."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.torture.faults import FAULTS
from tests.torture.faults.base import Fault
from tests.torture.record import read
from tests.torture.world import ROOT

PAGE: Final = ROOT / "docs/reliability.md"
BEGIN: Final = "<!-- made by: python -m tests.torture.report -->"
END: Final = "<!-- end of what is made -->"
HEADINGS: Final = (
    *("fault", "rounds", "sent", "200s", "unknown", "lost", "double", "failed"),
    *("longest without a 200, s", "longest without a row, s", "recovered in s, median and worst", "made by"),
)


def table(runs: Sequence[Mapping[str, Any]], faults: Iterable[Fault] = FAULTS) -> str:
    """The table in Markdown, and under it what it was made on."""
    lines = [_line(HEADINGS), _line(["---"] * len(HEADINGS))]
    lines += [_line(_cells(fault, runs)) for fault in faults]
    hours = sum(each["seconds"] for run in runs for each in run["rounds"]) / 3600
    took = f"All rounds together took {hours:.1f} hours."
    late = [f"FOUND LATE by `{run['command']}`: {each}" for run in runs for each in run.get("late", ())]
    return "\n".join([*lines, "", took, *_machines(runs), *late])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(fault: Fault, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    rounds = [each for run in runs for each in run["rounds"] if each["fault"] == fault.name]
    if not rounds:
        return [f"`{fault.name}`", f"0 of {fault.rounds}: not run", *["–"] * (len(HEADINGS) - 2)]
    recovery = sorted(each["recovery_s"] for each in rounds)
    missing = max(0, fault.rounds - len(rounds))
    commands = [run["command"] for run in runs if any(each["fault"] == fault.name for each in run["rounds"])]
    return [
        f"`{fault.name}`",
        f"{len(rounds)} of {fault.rounds}" + (f": {missing} not run" if missing else ""),
        *(f"{sum(each[name] for each in rounds):,}" for name in ("sent", "answered", "unknown", "lost", "double")),
        str(sum("problems" in each for each in rounds)),
        *(f"{max(each[name] for each in rounds):.1f}" for name in ("stall_answers_s", "stall_rows_s")),
        f"{statistics.median(recovery):.1f}, {recovery[-1]:.1f}",
        "; ".join(f"`{command}`" for command in dict.fromkeys(commands)),
    ]


def _machines(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the runs were made on, each difference once."""
    found = {}
    for run in runs:
        machine, made = run["machine"], run["versions"]
        text = (
            f"{machine['cores']} cores of {machine['cpu']}, {machine['system']}; Python {made['python']}, "
            f"Apache Kafka {made['kafka']}, chDB {made['chdb-core']}, aiokafka {made['aiokafka']}"
        )
        found.setdefault(text, []).append(run)
    return [
        f"{len(each)} runs from {each[0]['at'][:10]} to {each[-1]['at'][:10]}, commits "
        f"{', '.join(dict.fromkeys(run['commit'] for run in each))}: {text}."
        for text, each in found.items()
    ]


def with_table(page: str, made: str) -> str:
    """The page with its table replaced."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{made}\n\n{END}{tail}"


def write(page: Path = PAGE) -> None:
    """Write the page's table anew."""
    page.write_text(with_table(page.read_text(encoding="utf-8"), table(read())), encoding="utf-8")


if __name__ == "__main__":
    write()
