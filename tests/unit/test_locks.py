"""The lock of Python requirements."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_lock_holds_no_address() -> None:
    """Names, versions and sums only, so that any registry may serve them."""
    assert "//" not in LOCK
    assert "index-url" not in LOCK


def test_every_requirement_is_pinned_and_hashed() -> None:
    """Each entry has one exact version and at least one SHA-256."""
    entries = [entry for entry in re.split(r"\n(?=[a-z0-9])", LOCK) if entry and not entry.startswith("#")]
    assert len(entries) > 20
    assert [
        entry for entry in entries if not re.match(r"[a-z0-9._-]+==\S+", entry) or "--hash=sha256:" not in entry
    ] == []


def test_every_dependency_of_the_project_is_locked() -> None:
    """What pyproject.toml asks for, the lock has."""
    wanted = [
        *PROJECT["dependencies"],
        *(each for extra in PROJECT["optional-dependencies"].values() for each in extra),
    ]
    locked = set(re.findall(r"^([a-z0-9._-]+)==", LOCK, re.MULTILINE))
    names = {re.split(r"[<>=\[ ]", requirement, maxsplit=1)[0].lower().replace("_", "-") for requirement in wanted}
    assert names - locked == set()
