"""Where a link into a page of the documentation may lead."""

from __future__ import annotations

import re
from pathlib import Path


def anchors(path: Path) -> set[str]:
    """The fragments that a page's headings make."""
    heads = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
