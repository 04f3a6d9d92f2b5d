"""The audit of dependencies can fail: on a finding, on what it does not understand; and it says what it did not check."""

from __future__ import annotations

import json
from typing import Any

from tools.audit_dependencies import judge


def output(*dependencies: dict[str, Any]) -> str:
    """pip-audit's JSON."""
    return json.dumps({"dependencies": dependencies, "fixes": []})


GOOD = {"name": "good", "version": "1", "vulns": []}
BAD = {"name": "bad", "version": "2", "vulns": [{"id": "X-1", "fix_versions": ["3"], "aliases": [], "description": ""}]}
SKIPPED = {"name": "odd", "skip_reason": "not found"}


def test_a_finding_fails_unless_it_is_accepted() -> None:
    """The line names package, finding and the version that mends it, or the reason of the acceptance."""
    assert judge(output(GOOD), "", {}) == (["dependencies checked: 1 of 1"], False, True)
    found = judge(output(GOOD, BAD), "", {})
    assert found.is_bad
    assert found.lines[0] == "bad 2: X-1, fixed in 3"
    accepted = judge(output(BAD), "", {"X-1": "never called"})
    assert (accepted.is_bad, accepted.lines[0]) == (False, "bad 2: X-1, never called")


def test_what_was_not_checked_is_said() -> None:
    """A package that was skipped and a database that was not reached are neither good nor a finding."""
    assert judge(output(GOOD, SKIPPED), "", {})[1:] == (False, False)
    gone = "Traceback\nrequests.exceptions.ConnectionError: Max retries exceeded (NameResolutionError(...))\n"
    verdict = judge("", gone, {})
    assert (verdict.is_bad, verdict.is_complete) == (False, False)
    assert verdict.lines[0].startswith("dependencies not checked")


def test_anything_unexpected_fails() -> None:
    """No output without a network error, and a lock without dependencies, are failures of the check itself."""
    assert judge("", "pip_audit: error: unrecognized arguments", {}).is_bad
    assert judge("", "", {}).is_bad
    assert judge(output(), "", {}).is_bad
