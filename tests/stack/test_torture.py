"""The short form of `make torture`: a round of the main faults, and the proof that the judge can find fault."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clickledger.load.verify import MARK
from clickledger.stack.guard import Guard
from tests.support.figures import Figure
from tests.support.promise import promised
from tests.torture.faults import BY_NAME
from tests.torture.faults.base import Fault, Scene
from tests.torture.faults.pauses import StopSink
from tests.torture.rounds import Session

FAULTS = ("kill-sink", "kill-broker", "kill-all")
"""`kill-all` kills each of the others too; what one death or refusal alone does, the tests of its service show."""


@pytest.fixture(scope="module")
def session(guard: Guard, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """One world for all rounds; at its end all of them are compared once more."""
    session = Session(guard, tmp_path_factory.mktemp("torture") / "worlds", print)
    yield session
    session.finish()
    assert not session.late


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_loses_and_doubles_nothing(session: Session, name: str, figure: Figure) -> None:
    """Each 200 is one row, no row is unexplained, the audit is clean."""
    made = session.run(BY_NAME[name], f"short/{name}")
    figure(made.line())
    promised(made.lost == made.double == 0, made.line())
    assert made.is_good, made.line()
    assert made.answered > 0


class Falsified(Fault):
    """Rows are deleted, copied and forged behind the back of everything."""

    name = "falsified"
    rounds = 1
    shape = StopSink.shape

    def inject(self, scene: Scene) -> None:
        """One row less, one copied, one of an attempt that never was, and one of no run at all."""
        run = f"short_url LIKE '%{MARK}={scene.load.run}%' AND status = 'accepted'"
        found = (
            f"SELECT toString(transaction_id) AS id FROM clicks WHERE {run} ORDER BY raw_offset, raw_partition LIMIT 4"
        )
        lost, *others = (row["id"] for row in scene.world.query(found))
        stray = "generateUUIDv4() AS transaction_id"
        changes = ("0 AS raw_offset", f"{stray}, 1 AS raw_offset", f"{stray}, 2 AS raw_offset, 'x' AS short_url")
        for transaction_id, changed in zip(others, changes, strict=True):
            row = f"(SELECT * FROM clicks WHERE transaction_id = '{transaction_id}' LIMIT 1)"
            scene.world.sql(f"INSERT INTO clicks SELECT * REPLACE ('forged' AS stream, {changed}) FROM {row}")
        scene.world.sql(f"ALTER TABLE clicks DELETE WHERE transaction_id = '{lost}' SETTINGS mutations_sync = 2")

    def heal(self, scene: Scene) -> None:
        """Nothing heals it."""


def test_a_woken_sink_changes_nothing_and_the_judge_finds_what_was_changed(
    guard: Guard, tmp_path: Path, figure: Figure
) -> None:
    """A sink that was stopped beyond its session is turned away; a lost, a doubled and two stray rows are each named."""
    session = Session(guard, tmp_path / "worlds", print)
    made = session.run(StopSink(), "short/stop-sink")
    figure(made.line())
    assert made.is_good, made.line()
    made = session.run(Falsified(), "falsified")
    assert (made.lost, made.double) == (1, 1)
    found = " | ".join(made.problems)
    assert "1 rows from nowhere" in found
    assert "1 rows of no run, 0 expected" in found
    assert "audit: NOT clean" in found
    assert not made.is_good
    assert (session.kept[0] / "sink.log").exists()
