"""The runs whose outcomes stand in docs/scaling.md: one minute at 10,000 clicks a second, on three brokers and two shards."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from bench.simulation import report
from bench.simulation.engine import Simulation
from bench.simulation.figures import Figures
from bench.simulation.scenario import Scenario, parse_fault

WELL: Final = Scenario(
    rate=10_000,
    partitions=12,
    apis=2,
    enrichers=2,
    sinks=2,
    brokers=3,
    shards=2,
    inserts_per_second=40,
    hot_share=0.9,
    tick_ms=20,
)
SCENARIOS: Final = {
    "nothing fails": WELL,
    "1.8 times the rate for ten seconds, 0.2 times for the next ten": replace(WELL, burst=1.8),
    "a broker of three is lost": replace(WELL, faults=(parse_fault("broker:0@20"),)),
    "an enricher of two is killed for good": replace(WELL, faults=(parse_fault("enricher:0@20"),)),
    "a sink of two is killed for good": replace(WELL, faults=(parse_fault("sink:0@20"),)),
    "a ClickHouse node is away for 20 s (as shipped, all shards wait)": replace(
        WELL, faults=(parse_fault("node:0@20+20"),)
    ),
    "the same if only its shard waited": replace(WELL, faults=(parse_fault("shard:0@20+20"),)),
    "the same machines at 40,000 a second": replace(WELL, rate=40_000),
}


def table(figures: Figures) -> str:
    """Markdown: each run's freshness, the same for the tenth that is not the hot tenant's, recovery, the busiest stage."""
    lines = [
        "| what happens | p50 | p99 | max | others' p99 | back to normal after | busiest |",
        "|---|---|---|---|---|---|---|",
    ]
    for title, scenario in SCENARIOS.items():
        outcome = Simulation(scenario, figures).run()
        all_of = report.freshness(outcome.stored)
        others = report.freshness(each for each in outcome.stored if not each.cohort.is_hot)
        recovered = [report.recovery_s(outcome, fault) for fault in scenario.faults]
        after = "".join("-" if each is None else f"{each:.1f} s" for each in recovered)
        busiest = report.uses(outcome, scenario)[0]
        cells = (
            *(f"{each:.2f} s" for each in (*all_of[1:], others.p99_s)),
            after,
            f"{busiest.stage} {busiest.share:.0%}",
        )
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)
