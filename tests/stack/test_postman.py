"""The Postman collection in its own runner against the stack: every assertion of every request holds."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.full_stack import FullStack
from tools.postman import FILE

NEWMAN = Path(__file__).parents[1] / "clients/node_modules/.bin/newman"


@pytest.mark.skipif(
    shutil.which("node") is None or not NEWMAN.exists(), reason="node or tests/clients/node_modules is absent"
)
def test_the_collection_runs(full_stack: FullStack, tmp_path: Path) -> None:
    """Happy paths, missing keys, wrong JSON, batches and reports; no request failed and none was left out."""
    ready = full_stack.ready
    given = {
        **{name: ready[name] for name in ("api", "reports", "admin_key", "reports_key", "short_url")},
        "clicks_key": ready["key"],
        "promotion_id": f"postman-{uuid4().hex[:8]}",
        "new_url": f"http://postman.example/{uuid4().hex}",
    }
    report = tmp_path / "report.json"
    variables = [part for name, value in given.items() for part in ("--env-var", f"{name}={value}")]
    command = [str(NEWMAN), "run", str(FILE), *variables, "--timeout-request", "60000", "--reporters", "cli,json"]
    command += ["--reporter-json-export", str(report), "--color", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    stats = json.loads(report.read_text(encoding="utf-8"))["run"]["stats"]
    wanted = sum(len(folder["item"]) for folder in json.loads(FILE.read_text(encoding="utf-8"))["item"])
    assert (stats["requests"]["total"], stats["requests"]["failed"], stats["assertions"]["failed"]) == (wanted, 0, 0)
    assert stats["assertions"]["total"] > wanted
