"""Known vulnerabilities of what `requirements.lock` pins, as pip-audit finds them in the OSV database.

Fails on a finding that is not accepted below, and on anything it does not understand. Where the database cannot be reached
nothing is known, and that is what it prints; with `--strict` that fails too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

ACCEPTED: Final[Mapping[str, str]] = {}
"""Id of a finding -> why it does not concern us, and until when."""

COMMAND: Final = (
    *(sys.executable, "-m", "pip_audit", "--requirement", "requirements.lock"),
    *("--vulnerability-service", "osv", "--no-deps", "--disable-pip"),
    *("--format", "json", "--progress-spinner", "off", "--timeout", "5"),
)
UNREACHABLE: Final = ("NameResolutionError", "ConnectionError", "ConnectTimeout", "ReadTimeout", "ServiceError")
"""What the last line of pip-audit's complaint names when there is no network or no answer."""
SECONDS_MAX: Final = 120.0


class Verdict(NamedTuple):
    """What to print, whether anything is wrong, and whether all was looked up."""

    lines: list[str]
    is_bad: bool
    is_complete: bool


def judge(output: str, complaint: str, accepted: Mapping[str, str]) -> Verdict:
    """What pip-audit's two outputs mean. Anything unexpected is bad."""
    if not output:
        last = complaint.strip().rpartition("\n")[2]
        if any(name in last for name in UNREACHABLE):
            return Verdict(["dependencies not checked: the OSV database cannot be reached"], False, False)
        return Verdict([f"pip-audit failed: {last}"], True, False)
    found: list[dict[str, Any]] = json.loads(output)["dependencies"]
    unchecked = [each["name"] for each in found if "skip_reason" in each]
    lines, is_bad = [], not found
    for each in found:
        for finding in each.get("vulns", ()):
            reason = accepted.get(finding["id"])
            is_bad |= reason is None
            fixed = ", ".join(finding["fix_versions"]) or "no version yet"
            lines.append(f"{each['name']} {each['version']}: {finding['id']}, {reason or f'fixed in {fixed}'}")
    lines.append(f"dependencies checked: {len(found) - len(unchecked)} of {len(found)}")
    if unchecked:
        lines.append(f"not checked: {', '.join(unchecked)}")
    return Verdict(lines, is_bad, not unchecked)


def main(arguments: list[str]) -> int:
    """Exit status: 0 nothing known, 1 a finding or a failure, 3 with `--strict` when not all was checked."""
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    verdict = judge(done.stdout, done.stderr, ACCEPTED)
    print("\n".join(verdict.lines))
    if verdict.is_bad:
        return 1
    return 3 if "--strict" in arguments and not verdict.is_complete else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
