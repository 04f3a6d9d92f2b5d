"""ClickHouse is away, refuses, is full, or has lost a part or a token in a crash."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

from tests.torture.faults.base import Fault, Scene
from tests.torture.faults.pauses import FRESH_S
from tests.torture.world import Shape

_LEVEL_0: Final = re.compile(r"\d{8}_\d+_(\d+)_(\d+)")


class ClickHouseAway(Fault):
    """Clicks are taken and wait in Kafka; rows come when it is back."""

    name = "clickhouse-away"
    rounds = 9
    seconds = 30.0
    away_s = 20.0

    def inject(self, scene: Scene) -> None:
        """Kill it and leave it away."""
        scene.world.kill("clickhouse")
        scene.world.sleep(self.away_s)

    def heal(self, scene: Scene) -> None:
        """Start it."""
        scene.world.start("clickhouse")

    def problems(self, scene: Scene) -> list[str]:
        """Nobody who sends clicks may notice."""
        codes = scene.load.tally.by_code
        return [] if set(codes) <= {"200"} else [f"answers other than 200: {codes}"]


class ClickHouseAwayLong(ClickHouseAway):
    """The same for five minutes."""

    name = "clickhouse-away-5-min"
    rounds = 1
    seconds = 320.0
    away_s = 300.0
    rate = 200.0


class _Refuses(Fault):
    """A table setting makes ClickHouse refuse every insert for a while."""

    rounds = 10
    seconds = 12.0
    setting: str
    refusing: str
    away_s = (1.0, 4.0)

    def inject(self, scene: Scene) -> None:
        """Refuse."""
        scene.world.sql(f"ALTER TABLE clicks MODIFY SETTING {self.setting} = {self.refusing}")
        scene.world.sleep(scene.rng.uniform(*self.away_s))

    def heal(self, scene: Scene) -> None:
        """Take inserts again."""
        scene.world.sql(f"ALTER TABLE clicks RESET SETTING {self.setting}")


class TooManyParts(_Refuses):
    """Code 252, TOO_MANY_PARTS: merges do not keep up."""

    name = "too-many-parts"
    setting = "parts_to_throw_insert"
    refusing = "1"


class DiskFull(_Refuses):
    """Code 243, NOT_ENOUGH_SPACE: an operator must act; the sink goes on by itself when he has."""

    name = "disk-full"
    seconds = 18.0
    setting = "min_free_disk_bytes_to_perform_insert"
    refusing = str(1 << 60)


class LostPartOrToken(Fault):
    """ClickHouse dies; the newest part, or all tokens, are gone from its disk when it is back."""

    name = "lost-part-or-token"
    rounds = 10
    seconds = 16.0
    shape = Shape(
        settings=(
            ("CLICKLEDGER_SINK_ANSWER_AGE_MS_MAX", str(round(FRESH_S * 1000))),
            ("CLICKLEDGER_SINK_INSERT_TIMEOUT_MS", str(round(FRESH_S * 1000))),
        )
    )

    def inject(self, scene: Scene) -> None:
        """Kill it and remove one or the other."""
        ((path,),) = [row["data_paths"] for row in scene.world.query(_DATA_PATHS)]
        scene.world.kill("clickhouse")
        newest = newest_part(Path(path))
        if newest is not None and scene.rng.random() < 0.6:
            scene.notes.append(f"removed part {newest.name}")
            shutil.rmtree(newest)
        else:
            scene.notes.append("removed all tokens")
            shutil.rmtree(Path(path) / "deduplication_logs")

    def heal(self, scene: Scene) -> None:
        """Start it."""
        scene.world.start("clickhouse")


_DATA_PATHS: Final = "SELECT data_paths FROM system.tables WHERE database = currentDatabase() AND name = 'clicks'"


def newest_part(table: Path) -> Path | None:
    """The folder of the last insert; None when it is merged with older ones, which no crash takes away."""
    parts = {path: found for path in table.iterdir() if (found := _LEVEL_0.fullmatch(path.name))}
    newest = max(parts, key=lambda path: int(parts[path][1]), default=None)
    return newest if newest is not None and parts[newest][2] == "0" else None


FAULTS = (ClickHouseAwayLong(), ClickHouseAway(), TooManyParts(), DiskFull(), LostPartOrToken())
