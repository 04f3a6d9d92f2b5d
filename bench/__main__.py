"""`python -m bench`: every part, one after the other; rows to bench/RESULTS.md and bench/results.json.

At most an hour; with QUICK=1 in the environment under six minutes, each row at a small scale. `--only api,sink` makes these parts'
rows anew and keeps the others with their dates.

Exit status: 0 all was measured, whether targets are met or not; 1 a measurement broke (the others are still made); 2 a part
that does not exist; 3 the load generator `wrk` or a second core is missing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.machine import facts
from bench.parts import PARTS, QUICK_TOTAL_S, TOTAL_S, Ended, Part, run
from bench.report import line_of, load, page, save
from bench.rows import Row, merge, missed, unmeasured
from bench.targets import SPECS, specs_of

FOLDER = Path(__file__).parent
MISSING = 3
NO_TIME = "no time left"


def main(arguments: Sequence[str] | None = None, folder: Path = FOLDER) -> int:
    """Measure; the exit status."""
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help=f"comma-separated parts: {', '.join(part.name for part in PARTS)}")
    wanted = [name for name in parser.parse_args(arguments).only.split(",") if name]
    if unknown := set(wanted) - {part.name for part in PARTS}:
        print(f"no such part: {', '.join(sorted(unknown))}")
        return 2
    if shutil.which("wrk") is None:
        print("bench needs the load generator wrk: install the Debian package `wrk` (apt-get install wrk)")
        return MISSING
    if (os.cpu_count() or 1) < 2:
        print("bench needs two cores: one for what is measured, one for the load")
        return MISSING
    return measure([part for part in PARTS if not wanted or part.name in wanted], folder, bool(os.environ.get("QUICK")))


def measure(parts: Sequence[Part], folder: Path, is_quick: bool) -> int:  # noqa: FBT001  # named where it is made
    """Run the parts; results are written after each of them, so that a run that is cut off leaves what it had."""
    json_file, page_file = folder / "results.json", folder / "RESULTS.md"
    header = facts(is_quick=is_quick)
    print("\n".join(header), flush=True)
    began, broken = time.monotonic(), []
    rows = load(json_file)
    titles = {part.name: part.title for part in PARTS}
    for part in parts:
        left_s = (QUICK_TOTAL_S if is_quick else TOTAL_S) - (time.monotonic() - began)
        print(f"\n{part.title}", flush=True)
        started = time.monotonic()
        ended = (
            run(part, is_quick=is_quick, seconds_max=left_s)
            if left_s > 0
            else Ended([], is_broken=False, reason=NO_TIME)
        )
        print(f"  {time.monotonic() - started:.0f} s", flush=True)
        if ended.is_broken:
            broken.append(f"{part.name} ({ended.reason})")
        rows = merge(rows, whole(part, ended, is_quick=is_quick), SPECS)
        save(rows, page(header, titles, rows), json_file, page_file)
    return conclude(rows, broken, page_file)


def whole(part: Part, ended: Ended, *, is_quick: bool) -> list[Row]:
    """Every row of a part: those it made, the others with the reason why not."""
    found = {row.name: row for row in ended.rows}
    made, scale = time.strftime("%Y-%m-%d %H:%M", time.gmtime()), "quick" if is_quick else "full"
    return [
        found.get(spec.name) or unmeasured(spec, ended.reason or "not measured", made, scale)
        for spec in specs_of(part.name)
    ]


def conclude(rows: Sequence[Row], broken: Sequence[str], page_file: Path) -> int:
    """Say what was not met and what broke; the exit status."""
    print(f"\nwritten to {page_file} and results.json beside it")
    losers = missed(rows)
    for row in losers:
        print(f"not met: {row.part}{line_of(row)}")
    if not losers:
        print("no target is missed")
    if broken:
        print(f"broke: {', '.join(broken)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
