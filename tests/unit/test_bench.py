"""The benchmark's own arithmetic: judging, merging, writing, exit statuses. Nothing here measures anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import __main__ as bench
from bench import machine, open_loop, parts, wrk
from bench.backlog import Course, Sample
from bench.part import Recorder
from bench.parts import PARTS, Ended
from bench.report import line_of, load, number, page, read_lines, save
from bench.rows import Figure, Row, Spec, Target, decode, encode, judge, merge, missed, unmeasured
from bench.targets import SPECS, specs_of

MADE = "2026-01-02 03:04"
LEAST = Spec("api", "rate", "clicks/s", Target(">=", 100))
TIMES = Spec("api", "beside", "clicks/s", Target(">=", 10, is_ratio=True), "tutorial")
PLAIN = Spec("api", "plain", "us")
FINISHED = Ended([], is_broken=False, reason="")


def test_a_row_is_the_median_with_its_spread() -> None:
    """Three repetitions: the middle one counts, the outer ones are shown."""
    row = judge(LEAST, Figure([130, 90, 110]), MADE, "full")
    assert (row.value, row.low, row.high, row.met, row.ratio) == (110, 90, 130, True, None)
    assert (row.target, row.made, row.scale) == (">= 100 clicks/s", MADE, "full")


@pytest.mark.parametrize(
    ("sign", "value", "met"),
    [
        (">=", 99.9, False),
        (">=", 100, True),
        (">=", 100.1, True),
        ("<=", 99.9, True),
        ("<=", 100, True),
        ("<=", 100.1, False),
    ],
)
def test_a_bound_belongs_to_what_meets_it(sign: str, value: float, *, met: bool) -> None:
    """Exactly the target is enough."""
    assert judge(LEAST._replace(target=Target(sign, 100)), Figure([value]), MADE, "full").met is met


def test_a_ratio_is_of_neighbouring_turns() -> None:
    """The machine slows down to a third, for both sides: of 10, 12 and 10 times the middle one counts, not the medians' 12."""
    row = judge(TIMES, Figure([300, 240, 100], [30, 20, 10]), MADE, "full")
    assert (row.value, row.ratio, row.met, row.target) == (240, 10, True, ">= 10x")
    assert judge(TIMES, Figure([199], [20]), MADE, "full").met is False


def test_a_ratio_of_what_took_no_turns_is_of_medians() -> None:
    """Each side's own median, not the best of one and the worst of the other."""
    assert judge(TIMES, Figure([200], [30, 10, 20]), MADE, "full").ratio == 10
    assert judge(TIMES, Figure([100, 200, 300], [20]), MADE, "full").ratio == 10


@pytest.mark.parametrize("base", [[], [0.0]])
def test_without_what_it_is_compared_with_nothing_is_met_or_missed(base: list[float]) -> None:
    """A missing or zero base is no ratio."""
    row = judge(TIMES, Figure([100], base), MADE, "full")
    assert (row.value, row.ratio, row.met) == (100, None, None)


def test_a_row_without_a_target_is_neither_met_nor_missed() -> None:
    """It is told, no more."""
    assert judge(PLAIN, Figure([1]), MADE, "full").met is None


def test_a_row_that_was_not_measured_says_why() -> None:
    """Its target is still shown."""
    row = unmeasured(LEAST, "no time left", MADE, "quick")
    assert (row.value, row.met, row.reason, row.target) == (None, None, "no time left", ">= 100 clicks/s")


def test_a_row_survives_its_json() -> None:
    """Every field, with those that results.json promises."""
    row = judge(TIMES, Figure([100, 200], [30], "a note — here"), MADE, "full")
    record = json.loads(encode(row))
    assert decode(record) == row
    assert {"name", "value", "unit", "ratio_to", "ratio", "target", "met"} <= record.keys()


def test_merging_keeps_what_was_not_made_again() -> None:
    """New rows replace old ones of the same name; rows without a specification go; the order is the specifications'."""
    old = [judge(spec, Figure([1]), "2026-01-01 00:00", "full") for spec in (PLAIN, LEAST, TIMES)]
    gone = judge(Spec("api", "renamed", "s"), Figure([1]), MADE, "full")
    new = judge(LEAST, Figure([2]), MADE, "quick")
    merged = merge([*old, gone], [new], [LEAST, TIMES, PLAIN])
    assert [row.name for row in merged] == ["rate", "beside", "plain"]
    assert [row.made for row in merged] == [MADE, "2026-01-01 00:00", "2026-01-01 00:00"]


def test_files_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    """results.json is a list of objects; nothing else is left in the folder."""
    rows = [judge(LEAST, Figure([2]), MADE, "full"), unmeasured(TIMES, "broke", MADE, "full")]
    save(rows, "text", tmp_path / "results.json", tmp_path / "RESULTS.md")
    assert load(tmp_path / "results.json") == rows
    assert isinstance(json.loads((tmp_path / "results.json").read_text()), list)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["RESULTS.md", "results.json"]
    assert load(tmp_path / "absent.json") == []


def test_a_line_that_a_killed_part_did_not_finish_is_left_out(tmp_path: Path) -> None:
    """What came before it counts."""
    row = judge(PLAIN, Figure([1]), MADE, "full")
    file = tmp_path / "rows.jsonl"
    file.write_text(f"{encode(row)}\n{encode(row)[:20]}")
    assert read_lines(file) == [row]
    assert read_lines(tmp_path / "absent") == []


def test_the_page_ends_with_what_is_not_met() -> None:
    """Every part with a title and rows has a table; the last one is of missed targets."""
    rows = [judge(LEAST, Figure([2]), MADE, "full"), judge(PLAIN, Figure([0.5]), MADE, "full")]
    text = page(["a fact"], {"api": "The API", "sink": "The sink"}, rows)
    assert "- a fact\n- 0 of 1 targets met" in text
    assert "## The API" in text
    assert "## The sink" not in text
    assert text.index("## Targets not met") < text.rindex("| rate | 2 clicks/s |")
    assert "| plain | 0.5 us |" in text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0, "0"), (0.01234, "0.0123"), (12.34, "12.3"), (150, "150"), (31234.5, "31,234")]
)
def test_numbers_show_what_counts(value: float | None, text: str) -> None:
    """Three digits, or whole thousands."""
    assert number(value) == text


def test_a_line_tells_a_missed_target() -> None:
    """For the terminal."""
    assert "NOT met" in line_of(judge(LEAST, Figure([2]), MADE, "full"))
    assert "not measured (why)" in line_of(unmeasured(LEAST, "why", MADE, "full"))


def test_every_row_has_one_name_and_a_part_that_runs() -> None:
    """Names are keys of results.json together with their part."""
    assert len({(spec.part, spec.name) for spec in SPECS}) == len(SPECS)
    assert {part.name for part in PARTS} <= {spec.part for spec in SPECS}
    assert all((parts.ROOT / "bench" / f"{part.name}.py").exists() for part in PARTS)


def test_the_parts_end_within_an_hour() -> None:
    """Nothing begins after 55 minutes; a quick run's bounds are small, too."""
    assert parts.TOTAL_S + parts.ENDING_S <= 3600
    assert all(part.seconds_max <= 900 and part.quick_seconds_max <= 90 for part in PARTS)


# --- a part's own process


def test_a_recorder_passes_rows_on_at_once_and_goes_on_after_a_failure(tmp_path: Path) -> None:
    """What was measured before, beside and after a failure is kept; the rest says that it broke."""
    file = tmp_path / "rows.jsonl"
    recorder = Recorder("batch", file, is_quick=True)
    recorder.figure("batches of 100", [1.0])
    assert [row.name for row in read_lines(file)] == ["batches of 100"]
    with recorder.attempt("something"):
        raise RuntimeError("broken")
    recorder.figure("1 worker: CPU", [1.0])
    assert recorder.is_broken
    recorder.finish("the measurement broke")
    rows = {row.name: row for row in read_lines(file)}
    assert rows.keys() == {spec.name for spec in specs_of("batch")}
    assert rows["2 workers: CPU"].reason == "the measurement broke"
    assert {row.scale for row in rows.values()} == {"quick"}


def test_a_recorder_knows_its_rows(tmp_path: Path) -> None:
    """A name that targets.py does not have is a mistake, not a row."""
    with pytest.raises(KeyError):
        Recorder("batch", tmp_path / "rows.jsonl", is_quick=True).figure("no such row", [1.0])


# --- the main process


@pytest.fixture
def run_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """`python -m bench` with parts that only pretend."""

    def run(ended: Callable[[str], Ended], *arguments: str, has_wrk: bool = True) -> int:
        monkeypatch.setattr(bench, "run", lambda part, **_: ended(part.name))
        monkeypatch.setattr(shutil, "which", lambda _name: "/usr/bin/wrk" if has_wrk else None)
        monkeypatch.setattr("bench.__main__.facts", lambda **_: ["a fact"])
        monkeypatch.setattr("os.cpu_count", lambda: 2)
        return bench.main(arguments, tmp_path)

    return run


def _row(spec: Spec, value: float) -> Row:
    return judge(spec, Figure([value], [value]), MADE, "full")


def test_missed_targets_are_no_failure(
    run_parts: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are printed last; the exit status is 0."""
    (spec,) = (spec for spec in specs_of("batch") if spec.name == "batches of 100")
    assert run_parts(lambda name: Ended([_row(spec, 1)] if name == "batch" else [], is_broken=False, reason="")) == 0
    assert "batches of 100" in capsys.readouterr().out.splitlines()[-1]
    assert [row.name for row in missed(load(tmp_path / "results.json"))] == ["batches of 100"]


def test_a_broken_measurement_is_a_failure_that_costs_its_own_rows_only(
    run_parts: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 1; it says which; the others are made."""
    made: list[str] = []

    def ended(name: str) -> Ended:
        made.append(name)
        return Ended([], is_broken=name == "sink", reason="stopped after 1 s" if name == "sink" else "")

    assert run_parts(ended) == 1
    assert made == [part.name for part in PARTS]
    assert "broke: sink (stopped after 1 s)" in capsys.readouterr().out
    rows = load(tmp_path / "results.json")
    assert {row.reason for row in rows if row.part == "sink"} == {"stopped after 1 s"}


def test_one_part_alone_keeps_the_rows_of_the_others(run_parts: Callable[..., int], tmp_path: Path) -> None:
    """`--only` makes its own rows anew."""
    run_parts(lambda _name: FINISHED._replace(reason="first"))
    run_parts(lambda _name: FINISHED._replace(reason="second"), "--only", "sink,api")
    reasons = {row.part: row.reason for row in load(tmp_path / "results.json")}
    assert reasons["sink"] == reasons["api"] == "second"
    assert reasons["batch"] == "first"


def test_without_time_parts_are_left_out(
    run_parts: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No failure; their rows say so."""
    monkeypatch.setattr(bench, "TOTAL_S", 0)
    monkeypatch.delenv("QUICK", raising=False)
    assert run_parts(lambda name: pytest.fail(f"{name} ran")) == 0
    assert {row.reason for row in load(tmp_path / "results.json")} == {"no time left"}


def test_without_wrk_it_names_the_package(run_parts: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 3."""
    assert run_parts(lambda _name: FINISHED, has_wrk=False) == 3
    assert "Debian package `wrk`" in capsys.readouterr().out


def test_a_part_that_does_not_exist_is_refused(run_parts: Callable[..., int]) -> None:
    """Exit status 2."""
    assert run_parts(lambda _name: FINISHED, "--only", "spelling") == 2


# --- a backlog's course


def test_a_course_is_read_from_its_looks() -> None:
    """Rate from the first progress to the last, halves by records, memory by share, CPU a record."""
    looks = [(0, 100, 50, 1.0), (1, 200, 60, 1.5), (2, 300, 61, 2.0), (4, 400, 62, 2.5), (6, 500, 63, 3.0)]
    course = Course([Sample(*look) for look in looks], 0)
    assert course.rate == pytest.approx(400 / 6)
    assert course.halves == (pytest.approx(100), pytest.approx(50))
    assert course.cpu_us == pytest.approx(2.0 / 400 * 1e6)
    assert (course.mb_at(1 / 3), course.mb_at(1.0)) == (61, 63)


# --- reading others' words

WRK = """Running 2s test @ http://127.0.0.1:1
  1 threads and 64 connections
  Latency Distribution
     50%  950.00us
     75%    1.20ms
     90%    1.50ms
     99%    1.02s
  1000 requests in 2.00s, 1.00MB read
  Non-2xx or 3xx responses: 250
Requests/sec:    500.00
"""


def test_wrk_is_read_with_its_units() -> None:
    """Refusals are no clicks."""
    seen = wrk.read(WRK, 10, cpu_s=1.5)
    assert (seen.p50_ms, seen.p99_ms, seen.good, seen.bad) == (pytest.approx(0.95), 1020, 7500, 250)
    assert seen.clicks_per_second == 3750
    assert seen.cpu_us == 200
    with pytest.raises(RuntimeError, match="unable to connect"):
        wrk.read("unable to connect", 1, 0)


def test_a_batch_is_one_line_of_the_file_of_bodies() -> None:
    """The load generators put line ends where tabulators stand, so no body has either."""
    load = wrk.batches(links=10, size=5)
    assert all(body.count("\t") == 4 and "\n" not in body for body in load.bodies)
    assert open_loop.request_of("/x", "key", b"{}", "application/json").endswith(b"Content-Length: 2\r\n\r\n{}")


def test_the_header_tells_the_machine() -> None:
    """Versions, load, cores."""
    text = "\n".join(machine.facts(is_quick=True))
    assert "QUICK=1" in text
    assert "cores" in text
    assert "aiokafka" in text
