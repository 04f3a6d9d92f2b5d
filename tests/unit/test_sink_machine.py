"""The sink's loop against a model Kafka and a model ClickHouse: crashes, zombies, rebalances and losses at every step."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shared.events import Status
from shared.ids import keyed_id
from sink.suspects import REMEMBER_S
from tests.support.sink_model import WAITING, Process, World


class SinkMachine(RuleBasedStateMachine):
    """Every raw offset becomes exactly one row, whatever happens in between; no id is accepted twice."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.processes: list[Process] = []
        self.writers: list[int] = []

    @initialize(token_first=st.booleans())
    def begin(self, *, token_first: bool) -> None:
        """A server that logs the token first, or the part first."""
        self.world.token_first = token_first
        self.processes.append(Process(self.world))

    # --- the enricher

    @rule(kinds=st.lists(st.sampled_from("nnnnsc"), min_size=1, max_size=5))
    def write(self, kinds: list[str]) -> None:
        """New records: plain, suspect, or a copy of an earlier id (suspect exactly when the first was not)."""
        for kind in kinds:
            raw_offset = len(self.world.written)
            earlier = self.world.written.get(raw_offset - 2)
            if kind == "c" and earlier:
                self.world.written[raw_offset] = (earlier[0], not earlier[1])
            else:
                self.world.written[raw_offset] = (keyed_id("t", str(raw_offset), 1), kind == "s")
            self.world.write(raw_offset)

    @precondition(lambda self: self.world.written)
    @rule(data=st.data())
    def second_writer_starts(self, data: st.DataObject) -> None:
        """A second enricher begins anywhere where all lower offsets are written."""
        self.writers.append(data.draw(st.integers(0, len(self.world.written) - 1)))

    @precondition(lambda self: self.writers)
    @rule(data=st.data(), count=st.integers(1, 4))
    def second_writer_goes_on(self, data: st.DataObject, count: int) -> None:
        """It writes copies, going up without holes."""
        index = data.draw(st.integers(0, len(self.writers) - 1))
        for _ in range(count):
            if self.writers[index] < len(self.world.written):
                self.world.write(self.writers[index])
                self.writers[index] += 1

    @rule(skipped=st.integers(1, 3))
    def write_behind_a_gap(self, skipped: int) -> None:
        """Records get lost between the topics; `refill` (a second writer from the first missing one) comes later."""
        first = len(self.world.written)
        for raw_offset in range(first, first + skipped + 1):
            self.world.written[raw_offset] = (keyed_id("t", str(raw_offset), 1), False)
        self.world.write(first + skipped)
        self.writers = [min(writer, first) for writer in self.writers] + [first]

    # --- the members

    @rule(
        data=st.data(),
        count=st.integers(1, 25),
        fault=st.sampled_from(["none", "none", "none", "before", "after"]),
    )
    def step(self, data: st.DataObject, count: int, fault: str) -> None:
        """One process goes on for some steps; the first may fail."""
        process = data.draw(st.sampled_from(self.processes))
        for number in range(count):
            process.step(fault if number == 0 else "none")

    @rule(crash=st.booleans())
    def rebalance(self, *, crash: bool) -> None:
        """The partition goes to a new owner; the former one is dead, or does not know it yet."""
        if crash:
            self.processes[-1].crash()
        self.processes = [process for process in self.processes if process.pending is not None][-2:]
        self.processes.append(Process(self.world))

    @rule(seconds=st.floats(0.2, 40))
    def time_passes(self, seconds: float) -> None:
        """Nobody is scheduled meanwhile."""
        self.world.now_s += seconds

    @rule()
    def group_is_lost(self) -> None:
        """The committed offsets are gone."""
        self.world.committed = None

    # --- ClickHouse

    @rule()
    def server_restarts(self) -> None:
        """Inserts in flight are cut short, perhaps between token and part."""
        self.world.server_starts += 1

    @precondition(lambda self: self.world.parts)
    @rule(forget_token=st.booleans())
    def last_part_is_lost(self, *, forget_token: bool) -> None:
        """The disk loses the newest part; the server restarts, with or without the part's token.

        Nobody goes on with an answer from before: a part lost between the answer and the insert is a hole that only the
        audit can see.
        """
        self.world.server_starts += 1
        for process in self.processes:
            process.disconnect()
        if self.world.parts:
            self.world.parts.pop()
            if forget_token and self.world.tokens:
                self.world.tokens.popitem()

    @invariant()
    def no_row_stands_twice(self) -> None:
        """At no moment does an offset have two rows."""
        counts = Counter(row["raw_offset"] for row in self.world.rows())
        assert all(count == 1 for count in counts.values()), counts

    def teardown(self) -> None:
        """Left alone, with every gap refilled, the last owner brings every offset into the table."""
        if not self.processes:
            return
        for raw_offset in range(len(self.world.written)):
            self.world.write(raw_offset)
        owner = Process(self.world)
        for _ in range(4_000):
            if owner.pending is not None and owner.pending.name == WAITING:
                if self.world.highest() == len(self.world.written) - 1 and len(owner.feed.intake) == 0:
                    break
                self.world.now_s += 0.3
            owner.step()
        rows = sorted(self.world.rows(), key=lambda row: row["raw_offset"])
        assert [row["raw_offset"] for row in rows] == list(range(len(self.world.written)))
        self._each_id_is_accepted_once()

    def _each_id_is_accepted_once(self) -> None:
        stored_s = {raw: part.inserted_s for part in self.world.parts for raw in part.rows}
        accepted: dict[str, list[int]] = {}
        for row in self.world.rows():
            if row["status"] == Status.ACCEPTED:
                accepted.setdefault(row["transaction_id"], []).append(row["raw_offset"])
        assert len(accepted) == len({transaction_id for transaction_id, _ in self.world.written.values()})
        for raws in accepted.values():
            times = [stored_s[raw] for raw in raws]
            assert len(raws) == 1 or max(times) - min(times) > REMEMBER_S, raws


SinkMachine.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=40,
    deadline=None,
    database=None,  # a failure is printed with its steps; replaying old ones would hide what a change does
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestSinkMachine = SinkMachine.TestCase
