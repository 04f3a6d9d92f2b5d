"""A queueing simulation of the whole pipeline on any number of machines, and the sizing table of docs/scaling.md.

Run: .venv/bin/python -m bench.simulate --rate 20000 --partitions 60 --sinks 2 --fault sink:0@20. Faults: `broker:N@SECOND`, `enricher:N@…`,
`sink:N@…` (killed for good), `shard:N@SECOND+SECONDS`, `node:0@SECOND+SECONDS` (ClickHouse away: as shipped all shards
stand still). `--compare` runs the real local stack and the simulation at the same rate. `--update` takes the figures of
bench/results.json and writes the tables in docs/scaling.md anew.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.simulation import figures as measured
from bench.simulation import report, scenarios, sizing
from bench.simulation.engine import Outcome, Simulation
from bench.simulation.figures import Figures
from bench.simulation.scenario import Scenario, parse_fault
from clickledger.output import print_table

PAGE: Final = Path(__file__).parents[1] / "docs/scaling.md"
MARKS: Final = {name: f"<!-- {name} -->" for name in ("sizing", "scenarios", "figures")}
CLICKS_MAX: Final = 1e9


def tables(figures: Figures, sources: dict[str, str]) -> dict[str, str]:
    """What stands between the marks of the page."""
    return {
        "sizing": sizing.table(figures),
        "scenarios": scenarios.table(figures),
        "figures": sizing.figures_table(figures, sources),
    }


def page(text: str, made: dict[str, str]) -> str:
    """The page with the tables put between their marks."""
    for name, mark in MARKS.items():
        before, _, rest = text.partition(mark)
        _, found, after = rest.partition(mark)
        if not found:
            raise ValueError(f"{PAGE.name} must have {mark} twice")
        text = f"{before}{mark}\n{made[name]}\n{mark}{after}"
    return text


def update() -> None:
    """Figures from the results where they have them, then the page."""
    figures, sources = measured.load()
    if measured.RESULTS.exists():
        rows = json.loads(measured.RESULTS.read_text(encoding="utf-8"))
        figures, sources = measured.from_results(figures, sources, rows)
        measured.save(figures, sources)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), tables(figures, sources)), encoding="utf-8")
    print(f"written: {measured.FILE.name}, {PAGE.name}")


def show(outcome: Outcome, scenario: Scenario) -> None:
    """Print everything about one run."""
    sides: dict[str, bool | None] = {"all": None}
    sides |= {"hot tenant": True, "the others": False} if scenario.hot_share else {}
    rows = [
        (minute, name, of.clicks, *(f"{each:.2f}" for each in of[1:]))
        for name, is_hot in sides.items()
        for minute, of in report.by_minute(outcome, is_hot=is_hot)
    ]
    print_table(("minute", "clicks of", "clicks", "p50 s", "p99 s", "max s"), rows)
    raw, enriched = (max(each[n] for each in outcome.lag) for n in (1, 2))
    print(
        f"\nlag at most: {raw:,} clicks not enriched, {enriched:,} enriched and not stored; {outcome.blocks:,} blocks"
    )
    for fault in scenario.faults:
        recovered_s = report.recovery_s(outcome, fault)
        took = "not within the run" if recovered_s is None else f"{recovered_s:.1f} s after its end"
        print(f"{fault.part} {fault.index} away from {fault.at_s:g} to {fault.until_s:g} s: recovered {took}")
    uses = report.uses(outcome, scenario)
    print_table(("stage", "cores", "busy"), [(use.stage, use.servers, f"{use.share:.0%}") for use in uses])
    print(f"bottleneck: {uses[0].stage}")


def compare(asked: Scenario, *, is_saved: bool) -> None:
    """The real stack and the simulation with what was measured of it, side by side."""
    from bench.simulation import real

    rate, seconds = asked.rate, asked.seconds
    run = real.run(rate, seconds, asked.block_age_ms)
    figures, sources = measured.load()
    fresh = real.figures_of(run, figures.api_us)
    cores = os.cpu_count() or 1
    scenario = replace(asked, host_cores=cores, others_cores=run.others_cores, tick_ms=1)
    outcome = Simulation(scenario, replace(figures, **fresh)).run()
    simulated = report.freshness(outcome.stored, until_insert=True)
    rows = [
        (name, round(was), round(1000 * would), f"{1000 * would / was:.2f}")
        for name, was, would in zip(("p50", "p99", "max"), run.freshness_ms, simulated[1:], strict=True)
    ]
    print(f"{run.clicks:,} clicks at {rate:g}/s through the local stack in {run.blocks[0]:,} blocks")
    print(f"{simulated.clicks:,} simulated in {outcome.blocks:,} blocks")
    busy = rate * sum(run.cpu_us.values()) / 1e6
    print(f"busy cores of {cores}: {busy:.2f} with the clicks, {run.others_cores:.2f} with client and nothing to do")
    print_table(("received to inserted", "real ms", "simulated ms", "simulated / real"), rows)
    print_table(("figure", "value"), [(name, f"{value:.4g}") for name, value in sorted(fresh.items())])
    costs = zip(run.cpu_us.items(), run.batch_cpu_us.values(), run.idle_cores.values(), strict=True)
    print_table(
        ("CPU of", "us a click", "in batches", "cores with nothing to do"),
        [(name, f"{alone:.1f}", f"{many:.1f}", f"{idle:.3f}") for (name, alone), many, idle in costs],
    )
    if is_saved:
        said = f"local stack at {rate:g} clicks/s, `bench.simulate --compare`"
        measured.save(replace(figures, **fresh), {**sources, **dict.fromkeys(fresh, said)})


def scenario_of(arguments: argparse.Namespace) -> Scenario:
    """The scenario of the command line. Raises ValueError beyond a bound."""
    names = Scenario.__dataclass_fields__.keys() & vars(arguments).keys()
    given = {name: getattr(arguments, name) for name in names}
    scenario = Scenario(**given | {"faults": tuple(parse_fault(text) for text in arguments.faults)})
    if not 0 < scenario.rate * scenario.seconds <= CLICKS_MAX:
        raise ValueError(f"between one and {CLICKS_MAX:,.0f} clicks can be simulated")
    if any(each < 1 for each in (scenario.partitions, *report.servers(scenario).values())):
        raise ValueError("every part needs at least one")
    return scenario


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__)
    whole = (
        "partitions",
        "apis",
        "enrichers",
        "sinks",
        "brokers",
        "broker-cores",
        "shards",
        "clickhouse-cores",
        "host-cores",
        "seed",
    )
    real = ("rate", "seconds", "burst", "hot-share", "block-age-ms")
    for names, kind in ((whole, int), (real, float)):
        for name in names:
            default = Scenario.__dataclass_fields__[name.replace("-", "_")].default
            made.add_argument(f"--{name}", type=kind, default=default, help=f"(default {default})")
    made.add_argument("--batches", action="store_true", help="clicks come in batches of 100")
    made.add_argument("--pinned", action="store_true", help="a partition for each tenant: what Clickledger does not do")
    made.add_argument("--fault", dest="faults", action="append", default=[], metavar="PART:N@SECOND[+SECONDS]")
    made.add_argument("--sizing", action="store_true", help="print the sizing table")
    made.add_argument(
        "--compare", action="store_true", help="run the local stack at --rate, --seconds, --block-age-ms as well"
    )
    made.add_argument("--save", action="store_true", help="with --compare: keep the figures that it measured")
    made.add_argument("--update", action="store_true", help="write figures.json and the tables of docs/scaling.md anew")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate and print."""
    line = parser()
    asked = line.parse_args(arguments)
    try:
        scenario = scenario_of(asked)
    except ValueError as exc:
        line.error(str(exc))
    figures, _ = measured.load()
    if asked.update:
        update()
    elif asked.sizing:
        print(sizing.table(figures))
    elif asked.compare:
        compare(scenario, is_saved=asked.save)
    else:
        show(Simulation(scenario, figures).run(), scenario)


if __name__ == "__main__":
    main()
