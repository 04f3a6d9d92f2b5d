"""Every command against a running stack, as a user types it: what it prints, and its exit status."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import subprocess
import urllib.request
from pathlib import Path
from typing import Any
from uuid import uuid4

import openpyxl
import pytest

from clickledger.load.prove import compare
from clickledger.load.verify import Ledger
from clickledger.located import of_stack
from clickledger.stack.ready import Ready
from shared.clickhouse import ClickHouse
from tests.support.command_line import COMMAND_S, Done, run_process
from tests.support.figures import Figure
from tests.support.full_stack import FullStack
from tests.support.pipeline import command_env, eventually, query, run

XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


class Cli:
    """Runs `clickledger` on one stack."""

    def __init__(self, stack: FullStack) -> None:
        self.stack = stack
        self._run_before: set[str] = set()

    def __call__(self, *arguments: str, exit_status: int = 0) -> str:
        """Run one command; its standard output. Fails when it ends otherwise than expected.

        In each test the first call of a command is a process, what it prints later is got without one.
        """
        if arguments[0] in self._run_before:
            done = run(self.stack, *arguments)
        else:
            self._run_before.add(arguments[0])
            done = self.run(*arguments)
        assert done.returncode == exit_status, f"{done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def run(self, *arguments: str, timeout_s: float = COMMAND_S, **more: str) -> Done:
        """Run one command as a process; `more` is for its environment."""
        return run_process({**command_env(self.stack), **more}, *arguments, timeout_s=timeout_s)

    def json_lines(self, *arguments: str) -> list[dict[str, Any]]:
        """Run one command whose output is JSON lines."""
        return [json.loads(line) for line in self(*arguments).splitlines()]


@pytest.fixture
def cli(full_stack: FullStack) -> Cli:
    """`clickledger` on the shared stack."""
    return Cli(full_stack)


def test_thirty_thousand_clicks_are_exactly_their_rows(cli: Cli, figure: Figure) -> None:
    """In batches and one by one: each 200 is one accepted row, and the audit is clean."""
    sent = json.loads(
        cli("send", "--count", "27000", "--rate", "0", "--batch", "500", "--verify", "--json", "--retries", "9")
    )
    figure(f"27,000 in batches: {sent['clicks_per_second']:,} clicks/s, latency {sent['latency_ms']} ms")
    assert (sent["clicks"], sent["verify"]["proved"], sent["verify"]["missing"]) == (27_000, True, 0)
    assert sent["verify"]["duplicates"] > 0
    single = json.loads(cli("send", "--count", "3000", "--rate", "0", "--verify", "--json", "--retries", "9"))
    figure(f"3,000 one by one: {single['clicks_per_second']:,} clicks/s, latency {single['latency_ms']} ms")
    assert (single["clicks"], single["verify"]["proved"]) == (3_000, True)
    audit = json.loads(cli("audit", "--wait", "--json"))
    assert audit["clean"]
    assert audit["rows"] >= 30_000


async def test_verify_notices_an_id_without_a_row(full_stack: FullStack) -> None:
    """An id that was never stored is missing: the comparison is able to fail."""
    ledger = Ledger()
    ledger.add(str(uuid4()))
    async with ClickHouse(of_stack(Ready.model_validate(full_stack.ready)).clickhouse) as clickhouse:
        found = await compare(clickhouse, "never", ledger, started_ms=0)
    assert (found.checked, found.missing, found.is_proof(0)) == (1, 1, False)


def test_a_log_is_replayed(cli: Cli, tmp_path: Path) -> None:
    """Agents, addresses and shifted times arrive; lines that are none are counted, in the order of the file."""
    line = '203.0.113.%d - - [17/May/2015:10:05:0%d +0000] "GET /" 200 1 "-" "ReplayAgent/%s"\n'
    mark = uuid4().hex
    log = tmp_path / "access.log.gz"
    log.write_bytes(gzip.compress("".join([*(line % (n, n, mark) for n in range(5)), "nonsense\n"]).encode()))
    sent = json.loads(cli("send", "--from", str(log), "--clicked-at", "shift", "--verify", "--json"))
    assert (sent["accepted"], sent["bad_lines"], sent["verify"]["proved"]) == (5, 1, True)
    query = f"SELECT count(), max(clicked_at) - min(clicked_at) FROM clicks WHERE user_agent = 'ReplayAgent/{mark}'"
    assert cli("sql", "--format", "TSV", query).split() == ["5", "4"]


def test_nothing_accepted_is_a_failure(cli: Cli) -> None:
    """A wrong key: every answer is told, exit 1."""
    ready = cli.stack.ready
    done = cli.run("send", "--count", "5", "--url", ready["api"], "--key", "wrong", "--short-url", ready["short_url"])
    assert done.returncode == 1
    assert "498 x 5" in done.stdout


def test_keys_work_from_their_creation_to_their_revocation(cli: Cli) -> None:
    """Create, roll over without a gap, revoke; the secret is printed once and listed never."""
    tenant = f"t{uuid4().hex[:8]}"
    cli("tenants", "create", tenant, "--zone", "Asia/Kolkata")
    cli("tenants", "create", tenant, exit_status=1)
    cli("tenants", "set", tenant, "--privacy", "truncate")
    (listed,) = [each for each in cli.json_lines("tenants", "list", "--json") if each["tenant"] == tenant]
    assert (listed["zone"], listed["privacy"], listed["retention_days"]) == ("Asia/Kolkata", "truncate", 90)

    first = cli("keys", "create", "--tenant", tenant, "--grants", "reports", "--rate-limit", "5").strip()
    assert cli.run("keys", "create", "--tenant", "nobody", "--grants", "admin").returncode == 1
    (key,) = cli.json_lines("keys", "list", "--tenant", tenant, "--json")
    assert first not in json.dumps(key)
    second = cli("keys", "roll", key["key_id"]).strip()
    _reads(cli, first, 200)
    _reads(cli, second, 200)
    cli("keys", "revoke", key["key_id"], "--secret", "1")
    _reads(cli, first, 401)
    _reads(cli, second, 200)
    cli("keys", "revoke", key["key_id"])
    _reads(cli, second, 401)
    cli("keys", "roll", key["key_id"], exit_status=1)


def _reads(cli: Cli, secret: str, status: int) -> None:
    """A change of a key arrives within a second, on a machine that has time for it."""
    eventually(lambda: _read_report(cli, secret) == status, f"{status} for a report")


def _read_report(cli: Cli, secret: str) -> int:
    url = f"{cli.stack.ready['reports']}/v1/reports/ctr"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {secret}"})  # noqa: S310  # our own URL
    try:
        with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310
            return int(response.status)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code


def links_are_listed_as_they_were_loaded(cli: Cli, name: str, folder: Path) -> None:
    """Over several pages; what is printed can be loaded, and changes nothing."""
    listed = cli("links", "list", "--promotion", name)
    lines = [json.loads(line) for line in listed.splitlines()]
    assert sorted(line["recipient"] for line in lines) == sorted(f"r{n}" for n in range(2500))
    assert {line["promotion_id"] for line in lines} == {name}
    copy = folder / "listed.ndjson"
    copy.write_text(listed)
    assert cli("links", "load", str(copy), "--wait") == "2,500 loaded, 0 refused\n"
    assert cli("links", "list", "--promotion", name) == listed
    in_csv = list(csv.DictReader(io.StringIO(cli("links", "list", "--promotion", name, "--format", "csv"))))
    assert [{k: v for k, v in row.items() if v} for row in in_csv] == lines
    assert cli("links", "list", "--promotion", "nothing") == ""


def test_links_are_loaded_clicked_and_reported(cli: Cli, tmp_path: Path) -> None:
    """Promotions and links from files, bad lines named; clicks on them; the report in its three formats."""
    name = f"p{uuid4().hex[:8]}"
    promotions = tmp_path / "promotions.ndjson"
    promotions.write_text(json.dumps({"promotion_id": name, "name": "P", "sent": 100, "delivered": 50}) + "\n")
    assert cli("promotions", "load", str(promotions), "--wait") == "1 loaded, 0 refused\n"
    links = tmp_path / "links.csv"
    rows = "".join(f"http://go.example/{name}/{n},{name},r{n}\n" for n in range(2500))
    links.write_text("short_url,promotion_id,recipient\n" + rows + "ftp://x/y,p,r\n")
    done = cli.run("links", "load", str(links), "--wait")
    assert (done.returncode, done.stdout) == (1, "2,500 loaded, 1 refused\n")
    assert done.stderr.startswith("line 2502: short_url:")

    links_are_listed_as_they_were_loaded(cli, name, tmp_path)

    cli("send", "--count", "200", "--rate", "0", "--links", str(links), "--verify")
    (row,) = cli.json_lines("report", "ctr", "--promotion", name, "--format", "json")
    reports_agree_in_every_format(cli, name)
    accepted = int(cli("sql", "--format", "TSV", f"SELECT count() FROM rte WHERE promotion_id = '{name}'"))
    assert row["clicks"] + row["bot_clicks"] == accepted > 190
    assert (row["ctr_delivered"], row["ctr_sent"]) == (row["clicks"] / 50, row["clicks"] / 100)
    daily = list(csv.DictReader(io.StringIO(cli("report", "ctr", "--daily", "--promotion", name, "--format", "csv"))))
    assert sum(int(day["clicks"]) for day in daily) == row["clicks"]
    in_view = f"SELECT sum(clicks), sum(clicks_all), sum(duplicate_clicks) FROM ctr_daily WHERE promotion_id = '{name}'"
    counted = [row[each] for each in ("clicks", "clicks_all", "duplicate_clicks")]
    assert cli("sql", "--format", "TSV", in_view).split() == list(map(str, counted))
    assert name in cli("report", "ctr")
    linked = ("report", "ctr", "--by", "link", "--promotion", name, "--format", "json")
    assert cli.json_lines(*linked, "--limit", "3") == cli.json_lines(*linked)[:3]
    found = json.loads(_fetched(cli, f"/v1/reports/ctr?by=link&promotion_id={name}&limit=3"))
    assert (len(found["rows"]), found["groups"]) == (3, len(cli.json_lines(*linked)))

    promotions.write_text(json.dumps({"promotion_id": name, "name": "P", "sent": 400, "delivered": 0}) + "\n")
    cli("promotions", "load", str(promotions), "--wait")
    asked = ("report", "ctr", "--promotion", name, "--format", "json")
    eventually(lambda: cli.json_lines(*asked)[0]["sent"] == 400, "the newer denominators in the report")
    (row,) = cli.json_lines(*asked)
    assert (row["ctr_sent"], row["ctr_delivered"]) == (row["clicks"] / 400, None)
    quiet = f"{name}-quiet"
    promotions.write_text(json.dumps({"promotion_id": quiet, "name": "Q", "sent": 200, "delivered": 190}) + "\n")
    cli("promotions", "load", str(promotions), "--wait")
    asked = ("report", "ctr", "--promotion", quiet, "--format", "json")
    eventually(lambda: len(cli.json_lines(*asked, "--empty")) == 1, "a promotion that nobody clicked in the report")
    (row,) = cli.json_lines(*asked, "--empty")
    assert [row[each] for each in ("clicks", "sent", "delivered", "ctr_sent")] == [0, 200, 190, 0]
    assert cli.json_lines(*asked) == []
    refused = cli.run("report", "breakdown", "--by", "browser", "--empty")
    assert (refused.returncode, "not by browser" in " ".join(refused.stderr.split())) == (2, True)
    browsers = cli.json_lines("report", "breakdown", "--by", "browser,os", "--promotion", name, "--format", "json")
    assert sum(each["clicks_all"] for each in browsers) == accepted


def reports_agree_in_every_format(cli: Cli, promotion_id: str) -> None:
    """XLSX and CSV, asked for by `format` and by `Accept`, have JSON's columns and numbers."""
    asked = f"/v1/reports/ctr?by=promotion,link&promotion_id={promotion_id}"
    rows = json.loads(_fetched(cli, asked))["rows"]
    assert len(rows) > 100
    for body in (_fetched(cli, f"{asked}&format=xlsx"), _fetched(cli, asked, XLSX)):
        head, *lines = openpyxl.load_workbook(io.BytesIO(body))["report"].iter_rows(values_only=True)
        assert [dict(zip(head, line, strict=True)) for line in lines] == rows
    for body in (_fetched(cli, f"{asked}&format=csv"), _fetched(cli, asked, "text/csv;q=0.9, */*")):
        found = list(csv.DictReader(io.StringIO(body.decode())))
        assert found == [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]


def _fetched(cli: Cli, path: str, accept: str = "*/*") -> bytes:
    headers = {"Authorization": f"Bearer {cli.stack.ready['reports_key']}", "Accept": accept}
    request = urllib.request.Request(cli.stack.ready["reports"] + path, headers=headers)  # noqa: S310  # our own URL
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        found: bytes = response.read()
    return found


def test_a_click_is_traced(cli: Cli) -> None:
    """From the answer's id to its row, as a table and as JSON; an id that nobody got is exit 1, no id at all exit 2."""
    ready = cli.stack.ready
    body = json.dumps({"short-url": ready["short_url"]}).encode()
    headers = {"authorization": f"Bearer {ready['key']}", "content-type": "application/json"}
    url = f"{ready['api']}/campaignapi/resources/v3/shortlinkclicks"
    with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:  # noqa: S310  # our own stack
        transaction_id = json.load(answer)["transaction-id"]
    cli("audit", "--wait")
    told = json.loads(cli("trace", transaction_id, "--json"))
    (copy,) = told["copies"]
    assert (told["state"], copy["status"], copy["source"], told["note"]) == ("stored", "accepted", "api", "")
    assert copy["total_ms"] == copy["to_enriched_ms"] + copy["to_stored_ms"]
    assert copy["enriched_offset"] is not None
    assert f"{transaction_id}: stored" in cli("trace", transaction_id.upper())
    request = urllib.request.Request(  # noqa: S310  # our own stack
        f"{ready['reports']}/v1/transactions/{transaction_id}",
        headers={"authorization": f"Bearer {ready['reports_key']}"},
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310  # our own stack
        assert json.load(answer)["copies"][0]["raw_offset"] == copy["raw_offset"]
    assert "unknown" in cli("trace", transaction_id[:-6] + "000000", exit_status=1)
    cli("trace", "no-id", exit_status=2)


def test_names_that_nothing_knows_are_errors(cli: Cli) -> None:
    """A tenant, promotion or link that does not exist is named; one without clicks is none of them."""
    tenant, promotion, link = cli.stack.ready["tenant"], f"p{uuid4().hex[:8]}", f"http://go.example/{uuid4().hex}"
    unknown = "01a20442-8510-7004-a887-7fccaebd11b5"
    for command, name in (
        ("report ctr --tenant nope", "tenant nope"),
        ("report breakdown --tenant nope --format json", "tenant nope"),
        (f"report ctr --promotion {promotion}", f"promotion {promotion} of tenant {tenant}"),
        ("keys list --tenant nope", "tenant nope"),
        ("edr deliver --tenant nope --once --to /nowhere", "tenant nope"),
        ("reprocess --status malformed --tenant nope --dry-run", "tenant nope"),
        (f"trace {unknown} --tenant nope", "tenant nope"),
        ("tail --tenant nope -n 1", "tenant nope"),
    ):
        done = run(cli.stack, *command.split())
        assert (done.returncode, done.stdout) == (1, ""), command
        assert done.stderr.startswith(f"clickledger: no {name}, and no click on one") or (
            command.startswith("keys") and done.stderr.startswith("clickledger: no tenant nope")
        ), done.stderr
    for command, name in (
        (f"tail --promotion {promotion} -n 1", f"promotion {promotion}"),
        (f"tail --tenant {tenant} --link {link} -n 1", f"link {link} of tenant {tenant}"),
    ):
        with pytest.raises(subprocess.TimeoutExpired) as waiting:  # its first click may come yet
            cli.run(*command.split(), timeout_s=8)
        assert f"no {name}, and no click on one: waiting for one".encode() in (waiting.value.stderr or b"")
    quiet = f"t{uuid4().hex[:8]}"
    cli("tenants", "create", quiet)
    assert run(cli.stack, "report", "ctr", "--tenant", quiet).returncode == 0
    assert cli("keys", "list", "--tenant", quiet, "--json") == ""
    assert run(cli.stack, "report", "ctr", "--promotion", "Others").returncode == 0


def test_sql_reads_and_nothing_else(cli: Cli) -> None:
    """A table on request, one line for what is refused."""
    assert cli("sql", "--format", "JSONEachRow", "SELECT 1 AS one") == '{"one":1}\n'
    assert cli("sql", "SELECT 1 AS one") == "one\n1\n"
    assert "one" in cli("sql", "--format", "table", "SELECT 1 AS one")
    for refused in ("DROP TABLE clicks", "INSERT INTO gaps (stream) VALUES ('x')", "SELECT * FROM url('http://x/')"):
        done = cli.run("sql", refused)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1


def test_tail_shows_clicks(cli: Cli) -> None:
    """From an hour ago, filtered, as lines and as JSON."""
    cli("send", "--count", "20", "--rate", "0", "--verify")
    (record, _) = cli.json_lines("tail", "--since", "1h", "-n", "2", "--json", "--status", "accepted")
    assert record["status"] == "accepted"
    assert len(cli("tail", "--since", "1h", "-n", "3").splitlines()) == 3
    bots = "yes" if record["is_bot"] else "no"
    (event,) = cli.json_lines("tail", "--since", "1h", "-n", "1", "--events", "--bots", bots, "--link", record["link"])
    assert event["type"].startswith("com.clickledger.click.")
    data = event["data"]
    ends = f"SELECT raw_partition AS p, max(raw_offset) + 1 AS end FROM clicks WHERE stream = '{data['stream']}' GROUP BY p"
    # Ends, because the first offsets of the others may be gone: other tests of this stack have them deleted.
    after = {row["p"]: int(row["end"]) for row in query(cli.stack, ends)}
    after[data["raw_partition"]] = data["raw_offset"]
    position = ".".join(map(str, (data["stream"], *(after.get(p, 0) for p in range(max(after) + 1)))))
    again = cli.json_lines("tail", "--after", position, "-n", "1", "--events", "--promotion", event["subject"])
    assert again[0]["data"]["stream"] == event["data"]["stream"]
    (own,) = cli.json_lines("tail", "--since", "1h", "-n", "1", "--json", "--tenant", cli.stack.ready["tenant"])
    assert own["tenant"] == cli.stack.ready["tenant"]
    quiet = f"t{uuid4().hex[:8]}"
    cli("tenants", "create", quiet)
    with pytest.raises(subprocess.TimeoutExpired) as nothing:  # it waits for clicks that are not wanted
        cli.run("tail", "--since", "1h", "-n", "1", "--tenant", quiet, timeout_s=8)
    assert not nothing.value.stdout
    coloured = cli.run("tail", "--since", "1h", "-n", "1", "--promotion", event["subject"], FORCE_COLOR="1").stdout
    assert re.search("\x1b\\[32maccepted", coloured), "green"
    assert re.search(f"\x1b\\[1;36m{event['subject']}", coloured)
    for wrong in (("--status", "lost"), ("--bots", "maybe"), ("--after", "s.x"), ("--after", "s.1", "--since", "1h")):
        cli("tail", *wrong, exit_status=2)


def test_refill_has_nothing_to_do_and_does_no_harm(cli: Cli) -> None:
    """Everything is stored; going back on purpose writes copies, which the sink drops."""
    cli("send", "--count", "100", "--rate", "0", "--verify")
    assert cli("refill").startswith("nothing to refill")
    assert "partition 0" in cli("refill", "--at", "0:0")
    assert json.loads(cli("audit", "--wait", "--json"))["clean"]


def test_spools_and_the_dashboard_and_an_export(cli: Cli, tmp_path: Path) -> None:
    """Commands that other tests look at closely."""
    assert {each["node"] for each in cli.json_lines("spool", "list", "--json")}
    assert cli("dashboard").startswith("http://127.0.0.1:")
    cli("edr", "export", "--from", "2020-01-01T00:00Z", str(tmp_path / "clicks.csv"))
    assert (tmp_path / "clicks.csv").stat().st_size
