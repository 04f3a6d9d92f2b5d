"""One part of the benchmark in a process of its own: its arguments, its rows, and failures that stay where they are.

A part is `main(measure)`: `measure` gets a `Recorder` and calls `figure` for each row of targets.py that is its own. What
raises inside `attempt` is printed and costs its rows only; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from bench.report import line_of
from bench.rows import Figure, Row, encode, judge, unmeasured
from bench.targets import specs_of

REPETITIONS = 3
T = TypeVar("T")


class Recorder:
    """Takes figures, prints them and passes them on at once: what was measured before a failure is kept."""

    def __init__(self, part: str, rows_to: Path | None, *, is_quick: bool) -> None:
        self.is_quick = is_quick
        self.repetitions = self.scale(REPETITIONS, 1)
        self.is_broken = False
        self._specs = {spec.name: spec for spec in specs_of(part)}
        self._done: set[str] = set()
        self._rows_to = rows_to

    def scale(self, full: T, quick: T) -> T:
        """The one that was asked for."""
        return quick if self.is_quick else full

    def figure(self, name: str, values: Sequence[float], base: Sequence[float] = (), note: str = "") -> None:
        """A measured row. `base`: of what its ratio is to."""
        self._put(judge(self._specs[name], Figure(values, base, note), _now(), self._scale))

    def skip(self, name: str, reason: str) -> None:
        """A row that is not measured in this run."""
        self._put(unmeasured(self._specs[name], reason, _now(), self._scale))

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Go on behind it when it fails: its rows are then empty and say so."""
        try:
            yield
        except Exception:  # noqa: BLE001  # one broken measurement must not take the others with it
            self.is_broken = True
            print(f"broke: {what}\n{traceback.format_exc()}", flush=True)

    def finish(self, reason: str) -> None:
        """Rows without a figure say why."""
        for spec in self._specs.values():
            if spec.name not in self._done:
                self.skip(spec.name, reason)

    @property
    def _scale(self) -> str:
        return "quick" if self.is_quick else "full"

    def _put(self, row: Row) -> None:
        self._done.add(row.name)
        print(line_of(row), flush=True)
        if self._rows_to is not None:
            with self._rows_to.open("a", encoding="utf-8") as file:
                file.write(encode(row) + "\n")


def main(part: str, measure: Callable[[Recorder], None], text: str | None) -> None:
    """Run a part as `python -m bench.<part>`; ends the process with 1 when a measurement broke."""
    parser = argparse.ArgumentParser(description=(text or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small scale")
    parser.add_argument("--rows-to", type=Path, help="file to which each row is appended as a line of JSON")
    given = parser.parse_args()
    recorder = Recorder(part, given.rows_to, is_quick=given.quick)
    try:
        with recorder.attempt(part):
            measure(recorder)
    except KeyboardInterrupt:  # its time was over; what it had started has ended with it
        sys.exit("stopped")
    recorder.finish("the measurement broke" if recorder.is_broken else "not measured")
    sys.exit(int(recorder.is_broken))


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
