"""The tables on a cluster: how statements and questions are rewritten, and exactly once on replicated tables in a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import Phase, seed, settings
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from shared import positions
from shared.errors import OperatorError, OutcomeUnknown, TransientError
from sink import table
from sink.cluster import LOCAL, Place, of_every_copy, statements
from sink.ddl import forms, migrations
from tests.support.sink_model import BOUNDS, ModelTable, Part, Process, World
from tests.support.stepping import Op
from tests.unit.test_sink_machine import SinkMachine

PLACE = Place("main", "click'ledger")
SHOWN_S = 1.0
"""Longer than any replica takes from Keeper's commit until it shows the part, or its restart until it answers."""


def test_every_statement_has_a_form_on_a_cluster() -> None:
    """On all nodes, no table that is not replicated, and the shared table's engine settings for the local one only."""
    written = [statement for migration in migrations() for statement in migration.statements]
    found = [form for statement in written for form in forms(statement, "main", "clickledger")]
    assert len(found) > len(written)
    assert all(re.match(r"(CREATE|ALTER) .+? ON CLUSTER 'main'", form) for form in found)
    engines = {match for form in found for match in re.findall(r"ENGINE = (\w+)", form)}
    assert engines == {"ReplicatedMergeTree", "ReplicatedReplacingMergeTree", "Distributed", "Null"}
    assert not any("non_replicated" in form for form in found)
    altered = {match[1] for form in found if (match := re.match(r"ALTER TABLE (\w+)", form))}
    assert "clicks" not in altered


def test_without_a_cluster_nothing_is_rewritten() -> None:
    """Statements go to one server as they stand in their files."""
    assert forms("ALTER TABLE clicks DROP INDEX x", "", "clickledger") == ("ALTER TABLE clicks DROP INDEX x",)


def test_clicks_lie_in_shards_and_everything_else_on_every_node() -> None:
    """Path and replica name say so; versions of replacing tables stay; names are quoted."""
    made, distributed = statements("CREATE TABLE IF NOT EXISTS clicks\n(\n)\nENGINE = MergeTree\nORDER BY a", PLACE)
    assert made == (
        "CREATE TABLE IF NOT EXISTS clicks_local ON CLUSTER 'main'\n(\n)\n"
        "ENGINE = ReplicatedMergeTree('/clickledger/click\\'ledger/clicks/{shard}', '{replica}')\nORDER BY a"
    )
    assert distributed.endswith(
        f"AS {LOCAL}\nENGINE = Distributed('main', 'click\\'ledger', 'clicks_local', raw_partition)"
    )
    (small,) = statements("CREATE TABLE IF NOT EXISTS t\n(\n)\nENGINE = ReplacingMergeTree(v)", PLACE)
    assert "ReplicatedReplacingMergeTree('/clickledger/click\\'ledger/t/all', '{shard}-{replica}', v)" in small


def test_columns_are_changed_in_both_tables() -> None:
    """A Distributed table has columns of its own, but no index, projection or TTL. Unknown statements are refused."""
    both = statements("ALTER TABLE clicks ADD COLUMN IF NOT EXISTS x UInt8", PLACE)
    assert [form.split()[2] for form in both] == ["clicks_local", "clicks"]
    assert len(statements("ALTER TABLE clicks MODIFY TTL x", PLACE)) == 1
    with pytest.raises(OperatorError):
        statements("DROP TABLE clicks", PLACE)


def test_every_copy_is_asked_how_far_a_partition_is() -> None:
    """Positions, copies and suspects are asked of all replicas; no question of the sink goes to one of them."""
    for sql in (positions.HIGHEST, table._COPIES, table._SUSPECTS):
        asked = of_every_copy(sql, "main")
        assert not re.search(r"FROM (clicks|seals)\b", asked)
        assert "FROM clusterAllReplicas('main', currentDatabase(), 'clicks_local')" in asked
    assert "'seals'" in of_every_copy(positions.HIGHEST, "main")


class ReplicatedWorld(World):
    """Keeper commits token and part together; a replica may show a part a moment after that."""

    def highest(self) -> int:
        """The highest offset that any replica shows."""
        shown = [raw for part in self.parts if self.is_shown(part) for raw in part.rows]
        return max(self.sealed_last(), *shown, -1)

    def is_shown(self, part: Part) -> bool:
        """Acknowledged parts are shown; others after a while."""
        return getattr(part, "is_shown", False) or self.now_s - part.inserted_s >= SHOWN_S


class ReplicatedTable(ModelTable):
    """Inserts into replicated tables: committed in one step, shown in the next."""

    async def insert(self, body: Iterable[bytes], token: str) -> None:
        """Nobody waits for a part that its token knows."""
        world, began_s, began_with = self.world, self.world.now_s, self.world.server_starts
        rows = {row["raw_offset"]: row for row in map(orjson.loads, b"".join(body).splitlines())}
        part = Part(rows, world.now_s)

        def commit() -> bool:
            if world.server_starts != began_with:
                raise OutcomeUnknown("the server went away")
            if world.now_s - began_s > BOUNDS.insert_s:  # the server ends it, as on one server
                raise TransientError("the insert took too long")
            world.refuse(rows.values())
            if token in world.tokens:
                return False
            part.inserted_s = world.tokens[token] = world.now_s
            world.parts.append(part)
            return True

        def show() -> None:
            part.is_shown = True  # type: ignore[attr-defined]  # only this model has it

        if await Op("insert", commit):
            await Op("insert", show)


class ReplicatedProcess(Process):
    """A sink that was told of the cluster."""

    table = ReplicatedTable
    bounds = replace(BOUNDS, second_tokens=False)


class ReplicatedMachine(SinkMachine):
    """The same histories on replicated tables; a majority has each part, so none is lost."""

    world_of = ReplicatedWorld
    process_of: Callable[..., Process] = ReplicatedProcess
    last_part_is_lost: Any = None

    @precondition(lambda self: self.world.highest() >= 0)
    @rule()
    def group_is_lost(self) -> None:
        """As on one server: before any replica shows a row, nobody could tell that from a new stream."""
        self.world.committed = None


ReplicatedMachine.TestCase.settings = SinkMachine.TestCase.settings
TestReplicatedMachine = ReplicatedMachine.TestCase


class LaggingWorld(ReplicatedWorld):
    """One replica is asked, and it is behind."""

    def is_shown(self, part: Part) -> bool:
        """As if only old parts had been fetched."""
        return self.now_s - part.inserted_s >= 100


def test_the_machine_finds_a_missing_rule() -> None:
    """One replica's answer instead of all doubles rows in some history."""
    machine = seed(0)(type("Mutated", (ReplicatedMachine,), {"world_of": LaggingWorld}))
    until_found = settings(
        SinkMachine.TestCase.settings, max_examples=3_000, phases=(Phase.generate,), report_multiple_bugs=False
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=until_found)
