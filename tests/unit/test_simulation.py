"""The queueing model against what can be said without it: conservation, utilisation, hand calculations, its seed."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from bench import simulate
from bench.simulation import figures as measured
from bench.simulation import report, sizing
from bench.simulation.engine import Outcome, Simulation
from bench.simulation.figures import Figures
from bench.simulation.scenario import COHORTS_MAX, Part, Scenario, ends_at, parse_fault

FIGURES = Figures(
    api_us=100,
    api_batch_us=20,
    api_group_us=0,
    broker_us=50,
    broker_group_us=0,
    enricher_us=200,
    enricher_group_us=0,
    enricher_fetch_ms=2,
    sink_us=100,
    sink_block_ms=0,
    sink_fetch_ms=2,
    clickhouse_us=100,
    clickhouse_block_ms=0,
    ack_ms=3,
    ask_ms=10,
    insert_ms=20,
    raw_bytes=500,
    enriched_bytes=1_000,
    row_bytes=100,
)
EVEN = Scenario(rate=1_000, seconds=30, poisson=False, tick_ms=20)
FAULTS = ("broker:0@5", "enricher:0@5", "sink:0@10", "shard:1@12+5", "node:0@20+3")


def run(scenario: Scenario, figures: Figures = FIGURES) -> Outcome:
    """Simulate."""
    return Simulation(scenario, figures).run()


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("faults", [(), *((fault,) for fault in FAULTS), FAULTS])
def test_every_click_leaves_exactly_once(faults: tuple[str, ...], processes: int) -> None:
    """Whatever fails, as many rows as clicks, each after its arrival and not before its insert."""
    more = {"apis": 2, "enrichers": processes, "sinks": processes, "brokers": processes, "shards": 2, "hot_share": 0.9}
    scenario = replace(EVEN, poisson=True, faults=tuple(map(parse_fault, faults)), **more)
    outcome = run(scenario)
    assert sum(each.cohort.clicks for each in outcome.stored) == outcome.arrived > 0
    assert len({id(each.cohort) for each in outcome.stored}) == len(outcome.stored)
    assert all(each.cohort.arrived_s < each.inserted_s < each.stored_s for each in outcome.stored)
    assert outcome.lag[-1][1:] == (0, 0)


def test_each_stage_is_busy_for_rate_times_service() -> None:
    """The utilisation law: rho = lambda x s / servers, for every stage."""
    outcome = run(EVEN)
    for use in report.uses(outcome, EVEN):
        service_us = getattr(FIGURES, f"{use.stage}_us")
        assert use.share == pytest.approx(EVEN.rate * service_us / 1e6 / use.servers, rel=1e-3), use
    assert report.uses(outcome, EVEN)[0].stage == "enricher"


def test_below_saturation_nothing_waits_but_for_its_block() -> None:
    """Even arrivals, one partition: each click's time is the sum of its services, and of the block's age at most."""
    outcome = run(replace(EVEN, partitions=1, rate=200))
    fixed_s = (FIGURES.ack_ms * 2 + FIGURES.enricher_fetch_ms + FIGURES.sink_fetch_ms + FIGURES.ask_ms) / 1000
    least_s = fixed_s + (FIGURES.api_us + FIGURES.broker_us + FIGURES.enricher_us) / 1e6
    block = 0.001 * (200 * EVEN.age_limit_s + 200) * (FIGURES.sink_us + FIGURES.clickhouse_us) / 1e3
    delays = [each.inserted_s - each.cohort.arrived_s for each in outcome.stored]
    assert min(delays) >= least_s
    assert max(delays) <= least_s + EVEN.age_limit_s + block + 2 * EVEN.tick_s
    assert max(raw for _, raw, _ in outcome.lag) <= 200 * (least_s + EVEN.tick_s) + 1


def test_above_saturation_the_queue_grows_as_fast_as_it_must() -> None:
    """An enricher that does 5,000 a second and is given 8,000 is 3,000 x 30 s behind."""
    outcome = run(replace(EVEN, rate=8_000, apis=4))
    behind = max(raw for _, raw, _ in outcome.lag)
    assert behind == pytest.approx((8_000 - 5_000) * 30, rel=0.05)
    assert report.uses(outcome, replace(EVEN, apis=4))[0].stage == "enricher"


def test_the_seed_is_all_the_chance_there_is() -> None:
    """The same twice; another seed, other arrivals."""
    scenario = replace(EVEN, poisson=True, burst=1.5, hot_share=0.5, faults=(parse_fault("sink:0@5"),))
    assert run(scenario) == run(scenario)
    assert run(scenario).arrived != run(replace(scenario, seed=2)).arrived


def test_recovery_is_what_a_hand_calculates() -> None:
    """ClickHouse away for 10 s: 10 x 4,000 rows wait, and one core stores 10,000 rows a second: 40,000 / 6,000 s."""
    scenario = replace(EVEN, rate=4_000, seconds=60, clickhouse_cores=1, inserts_at_once=6, partitions=6)
    figures = replace(FIGURES, ask_ms=0, insert_ms=0, sink_us=1)
    node = parse_fault("node:0@20+10")
    found = report.recovery_s(run(replace(scenario, faults=(node,)), figures), node)
    assert found == pytest.approx(40_000 / 6_000, rel=0.15)


@pytest.mark.parametrize("part", ["sink", "enricher"])
def test_a_killed_process_costs_its_session(part: str) -> None:
    """The slowest click waited for the six seconds of the session and for little else; a broker costs its election."""
    quiet = report.freshness(run(EVEN).stored).max_s
    killed = report.freshness(run(replace(EVEN, faults=(parse_fault(f"{part}:0@10"),))).stored).max_s
    assert 6 <= killed <= quiet + 6 + 2
    lost = report.freshness(run(replace(EVEN, brokers=3, faults=(parse_fault("broker:0@10"),))).stored).max_s
    assert 3 <= lost <= quiet + 3 + 1


def test_a_lost_shard_stops_its_partitions_only() -> None:
    """Half of the clicks are as fresh as before; as shipped a lost node stops all."""
    scenario = replace(EVEN, shards=2)

    def late(fault: str) -> float:
        stored = run(replace(scenario, faults=(parse_fault(fault),))).stored
        during = [each for each in stored if 10 <= each.cohort.arrived_s < 14]
        count = sum(each.cohort.clicks for each in during if each.stored_s - each.cohort.arrived_s > 2)
        return count / sum(each.cohort.clicks for each in during)

    assert late("shard:0@10+8") == pytest.approx(0.5, abs=0.05)
    assert late("node:0@10+8") == 1


def test_a_hot_tenant_shares_every_partition() -> None:
    """Nine tenths in one tenant: the others' clicks wait as long as its own. In partitions of their own they would not, and its would."""
    scenario = replace(EVEN, rate=4_000, hot_share=0.9, poisson=True)
    spread = [
        report.freshness(s for s in run(scenario).stored if s.cohort.is_hot == hot).p99_s for hot in (True, False)
    ]
    assert spread[0] == pytest.approx(spread[1], rel=0.05)


@pytest.mark.parametrize("rate", [50, 100_000])
def test_a_run_is_bounded(rate: int) -> None:
    """Ticks grow before there are too many cohorts."""
    scenario = Scenario(rate=rate, seconds=3_600, apis=100, hot_share=0.5)
    assert scenario.seconds / scenario.tick_s * scenario.apis * 2 <= COHORTS_MAX * 1.01


def test_work_that_an_outage_cuts_is_done_after_it() -> None:
    """Begun before, inside, between two, and clear of all."""
    down = [(10.0, 20.0), (21.0, 30.0)]
    assert ends_at(5, 5, down) == (5, 10)
    assert ends_at(5, 5.5, down) == (30, 35.5)
    assert ends_at(12, 1, down) == (20, 21)
    assert ends_at(31, 1, down) == (31, 32)


def test_faults_are_read_as_they_are_written() -> None:
    """Of each kind; what has no length of its own must be given one."""
    assert {parse_fault(f"{part}:1@2+3").part for part in Part} == set(Part)
    for wrong in ("sink", "sink:0", "shard:0@5", "node:0@5", "api:0@5", "sink:x@1"):
        with pytest.raises(ValueError, match=r"\w"):
            parse_fault(wrong)


def test_sizes_follow_from_the_figures() -> None:
    """10,000/s x 200 us is 2 cores of work, so 4 at 60 %; disk is rate x bytes x copies x days; never less than one."""
    found = sizing.size(10_000, FIGURES)
    assert found.enrichers == 4
    assert found.clickhouse_disk_tb == pytest.approx(10_000 * 100 * 2 * 90 * 86_400 / 1e12)
    assert found.partitions >= 4 * found.enrichers
    assert sizing.size(1, FIGURES).brokers == 3
    assert sizing.size(10_000, FIGURES, batches=True).api_cores < found.api_cores


def test_the_page_says_what_the_figures_say() -> None:
    """Written anew by: .venv/bin/python -m bench.simulate --update."""
    figures, sources = measured.load()
    text = simulate.PAGE.read_text(encoding="utf-8")
    assert simulate.page(text, simulate.tables(figures, sources)) == text
    assert set(sources) == {field.name for field in fields(Figures)}


def test_figures_are_taken_from_results(tmp_path: Path) -> None:
    """What the results have replaces what stood there, with its source; rows without a value change nothing."""
    rows = [
        {"name": "single click: CPU", "value": 31.5},
        {"name": "bytes a stored row", "value": None},
        {"name": "other", "value": 1},
    ]
    figures, sources = measured.from_results(
        FIGURES, dict.fromkeys(json.loads(measured.FILE.read_text()), "before"), rows
    )
    assert (figures.api_us, figures.row_bytes) == (31.5, FIGURES.row_bytes)
    assert (sources["api_us"], sources["row_bytes"]) == ("bench/results.json, 'single click: CPU'", "before")
    measured.save(figures, sources, tmp_path / "figures.json")
    assert measured.load(tmp_path / "figures.json") == (figures, sources)


def test_the_command_simulates_and_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    """It prints freshness, recovery and the bottleneck; the table; and refuses what is too large."""
    simulate.main(["--rate", "200", "--seconds", "20", "--hot-share", "0.5", "--fault", "sink:0@5"])
    said = capsys.readouterr().out
    assert "the others" in said
    assert "recovered" in said
    assert "bottleneck" in said
    simulate.main(["--sizing"])
    assert "1,000,000" in capsys.readouterr().out
    for wrong in (["--rate", "1e9"], ["--sinks", "0"], ["--fault", "x"]):
        with pytest.raises(SystemExit):
            simulate.main(wrong)
