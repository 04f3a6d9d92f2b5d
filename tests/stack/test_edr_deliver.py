"""Exports to files and deliveries on a stack of their own: kill -9 at every step, two at once, a folder and an object store."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import http.client
import io
import itertools
import json
import os
import pty
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pandas as pd
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from clickledger.deliveries.target import Target, open_target
from clickledger.stack.guard import Guard
from tests.support.full_stack import FullStack
from tests.support.pipeline import Sending, audit_is_clean, command_env, eventually, query, run, succeed
from tests.support.raw_records import unlinked_click, write

EVERY = ("--every", "1s")
_LINK = "short_url,promotion_id\nhttp://other.example/a,theirs\n"


@pytest.fixture(scope="module")
def stack(guard: Guard, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FullStack]:
    """A stack with clicks of two tenants."""
    folder = tmp_path_factory.mktemp("deliver")
    stack = FullStack(guard, folder)
    succeed(stack, "tenants", "create", "other")
    grants = ("--grants", "shortlinkclicks,admin")
    key = succeed(stack, "keys", "create", "--tenant", "other", *grants).strip()
    (folder / "links.csv").write_text(_LINK)
    succeed(stack, "links", "load", str(folder / "links.csv"), "--wait", "--key", key)
    succeed(stack, "send", "--count", "200", "--key", key, "--short-url", "http://other.example/a")
    succeed(stack, "send", "--count", "300")
    audit_is_clean(stack)
    yield stack
    stack.close()


@pytest.fixture(scope="module")
def bucket() -> Iterator[tuple[str, dict[str, str]]]:
    """A bucket of a local object store, and the environment in which it is found."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    env = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
    }
    connection = http.client.HTTPConnection(host, port, timeout=30)
    connection.request("PUT", "/clicks")
    assert connection.getresponse().status == http.client.OK
    connection.close()
    yield "s3://clicks/some/place", env
    server.stop()


def faults(stack: FullStack, steps: str, *arguments: str, env: dict[str, str] | None = None) -> int:
    """Deliveries that are killed before their n-th step, for each n; how many were."""
    command = [sys.executable, "-m", "tests.support.edr_faults", steps, *EVERY, *arguments]
    done = subprocess.run(
        command, env={**command_env(stack), **(env or {})}, capture_output=True, text=True, check=False, timeout=300
    )
    assert "killed " in done.stdout, done.stderr
    return int(done.stdout.split("killed ")[1])


def deliver(stack: FullStack, *arguments: str, env: dict[str, str] | None = None) -> str:
    """One delivery to its end."""
    command = [sys.executable, "-m", "clickledger", "edr", "deliver", "--once", *EVERY, *arguments]
    done = subprocess.run(
        command, env={**command_env(stack), **(env or {})}, capture_output=True, text=True, check=False, timeout=150
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


Row = tuple[int, int, str, str]
"""Partition, raw offset, status, tenant."""


async def check(target: Target) -> tuple[list[Row], list[dict[str, Any]]]:
    """Every set of a target is complete and says the truth, and the sets are a chain; all rows, and the manifests."""
    claims = [json.loads(await target.read(name) or b"") for name in await target.names("claims")]
    assert [claim["sequence"] for claim in claims] == list(range(1, len(claims) + 1))
    for before, after in itertools.pairwise(claims):
        assert after["after"] == before["up_to"]
        assert after["interval"]["from"] == before["interval"]["to"] < after["interval"]["to"]
    rows: list[Row] = []
    manifests = []
    for claim in claims:
        begin, end = (claim["interval"][name].replace("-", "").replace(":", "") for name in ("from", "to"))
        folder = f"edr-{claim['tenant']}-{begin}-{end}"
        manifest = json.loads(await target.read(f"{folder}/manifest.json") or b"")
        names = {f"{folder}/manifest.json"}
        found: list[Row] = []
        for file in manifest["files"]:
            content = await target.read(file["name"])
            assert content is not None
            assert (len(content), hashlib.sha256(content).hexdigest()) == (file["bytes"], file["sha256"])
            beside = await target.read(f"{file['name']}.sha256")
            assert beside == f"{file['sha256']}  {file['name'].rpartition('/')[2]}\n".encode()
            names |= {file["name"], f"{file['name']}.sha256"}
            of_file = read_rows(content, claim["format"])
            assert len(of_file) == file["rows"]
            found += of_file
        assert set(await target.names(folder)) == names, "no file that is not of the set"
        assert found == sorted(found), "in the order of positions"
        counted: Counter[tuple[int, str]] = Counter((partition, status) for partition, _, status, _ in found)
        listed = {
            (each["partition"], status): n for each in manifest["partitions"] for status, n in each["rows"].items()
        }
        assert counted == listed
        assert manifest["rows"] == len(found)
        assert all(
            (manifest[name], claim[name]) == (claim[name], manifest[name])
            for name in ("sequence", "after", "up_to", "interval")
        )
        rows += found
        manifests.append(manifest)
    return rows, manifests


def read_rows(content: bytes, form: str) -> list[Row]:
    """The rows of a file."""
    if form == "parquet":
        frame = pd.read_parquet(io.BytesIO(content))
        columns = (frame[name].tolist() for name in ("raw_partition", "raw_offset", "status", "tenant"))
        return list(zip(*columns, strict=True))
    found = (json.loads(line) for line in gzip.decompress(content).splitlines())
    return [(row["raw_partition"], row["raw_offset"], row["status"], row["tenant"]) for row in found]


def stored(stack: FullStack, tenant: str) -> list[Row]:
    """The same of the table."""
    sql = f"SELECT raw_partition, raw_offset, status, tenant FROM clicks WHERE tenant = '{tenant}' ORDER BY ALL"
    return [(row["raw_partition"], int(row["raw_offset"]), row["status"], row["tenant"]) for row in query(stack, sql)]


def last_delivery(stack: FullStack, *arguments: str, env: dict[str, str] | None = None) -> None:
    """Deliver until an interval was delivered that began after everything was stored."""
    eventually(lambda: "delivered already" not in deliver(stack, *arguments, env=env), "the next interval's end")


async def test_a_folder_survives_kills(stack: FullStack, tmp_path: Path) -> None:
    """While clicks arrive, deliveries are killed before every step and run twice at once: each row in exactly one file.

    The counts are those of the audit, no other tenant's row is inside, and nothing is left behind.
    """
    mine, theirs = str(tmp_path / "mine"), str(tmp_path / "theirs")
    options = ("--to", mine, "--format", "ndjson", "--file-rows", "300")
    sending = Sending(stack, "--rate", "20", "--count", "100000")
    try:
        sending.wait_for_rows()
        assert faults(stack, "1-20", *options) > 12
        await asyncio.gather(*(asyncio.to_thread(deliver, stack, *options) for _ in range(2)))
        sending.stop()
        sending.proof()
    finally:
        sending.close()
    last_delivery(stack, *options)
    last_delivery(stack, "--to", theirs, "--tenant", "other", "--format", "parquet")
    with open_target(mine) as target:
        rows, manifests = await check(target)
    with open_target(theirs) as target:
        others, (manifest,) = await check(target)
    assert rows.count(rows[0]) == 1
    assert sorted(rows) == stored(stack, "default")
    assert others == stored(stack, "other")
    assert max(len(manifest["files"]) for manifest in manifests) > 1
    assert {path.name.split("-")[0] for path in (tmp_path / "mine").iterdir()} == {".working", "claims", "edr"}
    assert not list((tmp_path / "mine" / ".working").iterdir())
    of_both = Counter((partition, status) for partition, _, status, _ in rows + others)
    for audited in audit_is_clean(stack)["partitions"]:
        partition = audited["partition"]
        assert audited["rows"] == next(p["positions"] for p in manifest["partitions"] if p["partition"] == partition)
        for status in ("accepted", "duplicate", "rejected", "malformed"):
            assert audited[status] == of_both[partition, status]
    refused = run(stack, "edr", "deliver", "--once", "--to", mine, "--tenant", "other")
    assert (refused.returncode, "tenant default" in refused.stderr) == (1, True)


def test_a_loop_delivers_each_interval(stack: FullStack, tmp_path: Path) -> None:
    """It goes on by itself until SIGTERM; a click that is stored late is in a later set, and no older file changes."""
    to = tmp_path / "loop"
    options = ("--to", str(to), "--format", "ndjson", "--every", "2s")
    command = [sys.executable, "-m", "clickledger", "edr", "deliver", *options]

    def sets() -> list[Path]:
        return sorted(to.glob("edr-*/manifest.json"))

    with subprocess.Popen(command, env=command_env(stack), stdout=subprocess.PIPE, text=True) as loop:
        try:
            eventually(lambda: len(sets()) >= 2, "two sets")
            before = {path: path.read_bytes() for path in to.glob("edr-*/*")}
            newest = sets()[-1].parent.name
            late = unlinked_click("default", "http://late.example/x", 1, age_ms=2 * 86_400_000)
            asyncio.run(write(stack.ready["kafka"], "clicks.raw", [(1, late)]))
            eventually(
                lambda: any(json.loads(path.read_bytes())["rows"] for path in sets()[2:]), "the late click's set"
            )
        finally:
            loop.send_signal(signal.SIGTERM)
            told = loop.communicate(timeout=60)[0]
    assert loop.returncode == -signal.SIGTERM
    assert all(path.parent.name in told for path in sets()[:2])
    assert {path: path.read_bytes() for path in before} == before
    last_delivery(stack, *options)
    with open_target(str(to)) as target:
        rows, _ = asyncio.run(check(target))
    assert sorted(rows) == stored(stack, "default")
    found = [
        path for path in to.glob("edr-*/*.ndjson.gz") if b"http://late.example/x" in gzip.decompress(path.read_bytes())
    ]
    assert len(found) == 1
    assert found[0].parent.name > newest


async def test_an_object_store_survives_kills(
    stack: FullStack, bucket: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same in a bucket: the manifest is last, and every set that has one is complete."""
    place, env = bucket
    options = ("--to", place, "--format", "parquet", "--compression", "zstd", "--file-rows", "150")
    assert faults(stack, "5-14", *options, env=env) > 6
    last_delivery(stack, *options, env=env)
    for name, text in env.items():
        monkeypatch.setenv(name, text)
    with open_target(place) as target:
        rows, _ = await check(target)
    assert sorted(rows) == stored(stack, "default")
    found = [each["path"] for each in obstore.list(S3Store("clicks")).collect()]
    assert all(path.startswith("some/place/") for path in found)


def test_a_bucket_that_is_not_there(stack: FullStack, bucket: tuple[str, dict[str, str]]) -> None:
    """One line that says what is wrong."""
    command = [sys.executable, "-m", "clickledger", "edr", "deliver", "--once", "--to", "s3://nowhere/x"]
    done = subprocess.run(
        command, env={**command_env(stack), **bucket[1]}, capture_output=True, text=True, check=False, timeout=100
    )
    assert (done.returncode, done.stderr.count("\n"), "404 Not Found" in done.stderr) == (1, 1, True), done.stderr


def test_an_export_shows_how_far_it_is(stack: FullStack, tmp_path: Path) -> None:
    """On a terminal the bar reaches 100 % of the rows that were counted first, packed or not; of Parquet it has no percentage."""
    for name, has_percentage in (("a.csv", True), ("a.csv.gz", True), ("a.ndjson.zst", True), ("a.parquet", False)):
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "clickledger", "edr", "export", "--cursor", "earliest", str(tmp_path / name)]
        done = subprocess.run(command, env=command_env(stack), stdout=subprocess.PIPE, stderr=theirs, check=True)
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while piece := os.read(ours, 1 << 16):
                shown += piece
        os.close(ours)
        assert (b"100%" in shown) == has_percentage, shown
        assert b"next cursor" in done.stdout


def test_export_to_a_file(stack: FullStack, tmp_path: Path) -> None:
    """The file's name says the format; a pull prints the next cursor; refusals leave no file."""
    file = tmp_path / "all.ndjson.gz"
    found = succeed(stack, "edr", "export", "--from", "2020-01-01T00:00Z", str(file))
    assert f"{file}: {file.stat().st_size:,} bytes" in found
    assert sorted(read_rows(file.read_bytes(), "ndjson"))[:300] == stored(stack, "default")[:300]
    refused = run(stack, "edr", "export", "--from", "2020-01-01T00:00Z", str(file))
    assert (refused.returncode, "--force" in refused.stderr) == (2, True)
    pulled = succeed(stack, "edr", "export", "--cursor", "earliest", str(tmp_path / "pull.parquet"))
    cursor = pulled.split("next cursor: ")[1].split()[0]
    succeed(stack, "edr", "export", "--cursor", cursor, "--promotion", "x", str(file), "--force")
    assert gzip.decompress(file.read_bytes()) == b""
    refused = run(stack, "edr", "export", "--cursor", "nonsense", str(tmp_path / "no.csv"))
    assert (refused.returncode, "400" in refused.stderr) == (1, True)
    refused = run(stack, "edr", "export", "--from", "2020-01-01T00:00Z", str(tmp_path / "no.xls"))
    assert (refused.returncode, ".parquet" in refused.stderr) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.ndjson.gz", "pull.parquet"]
