"""What other people wrote and we ship is exactly what the note beside it says."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

VENDOR = Path(__file__).parents[2] / "reporting/dashboard/static/vendor"


def test_vendored_files_are_unchanged() -> None:
    """The script has the length and the sum of the note, and its licences lie beside it."""
    note = (VENDOR / "VENDORED.txt").read_text(encoding="utf-8")
    facts = dict(re.findall(r"^(file|bytes|SHA-256) +(\S+)$", note, re.MULTILINE))
    body = (VENDOR / facts["file"]).read_bytes()
    assert (str(len(body)), hashlib.sha256(body).hexdigest()) == (facts["bytes"], facts["SHA-256"])
    named = set(re.findall(r"\b(?:LICENSE|NOTICE)[\w-]*\.txt", note))
    assert {path.name for path in VENDOR.iterdir()} == {facts["file"], "VENDORED.txt", *named}


def test_no_page_loads_anything_from_elsewhere() -> None:
    """None of our own files names an address of another host."""
    for path in VENDOR.parent.glob("*.*"):
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, path.name
