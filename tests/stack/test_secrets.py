"""After a run with failures of every kind, no secret stands anywhere but in `ready.json`: everything is searched.

A secret that a client puts where none belongs is that client's data. In a request's target (a query, a path) it is neither
logged nor stored; in a click's body it goes where the body goes: byte for byte into `clicks.raw`, and as far as a stored
field holds it into the row. It is not in logs, metrics or answers.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.support.api_service import BATCH, CLICKS
from tests.support.full_stack import FullStack, start_service
from tests.support.pipeline import audit_is_clean, run, succeed
from tests.support.processes import Child
from tests.support.stack import execute

LOCAL_WEBHOOKS = {"CLICKLEDGER_WEBHOOKS_ALLOW_NETWORKS": "127.0.0.0/8"}
FILES_OF_SECRETS: dict[str, list[str]] = {
    **{name: [] for name in ("created", "webhook token", "webhook field", "webhook secret")},
    **{f"{service}'s password": [] for service in ("sink", "reporting")},
    "seal key": ["seal.key"],
}
"""Where a secret that is not in `ready.json` lies."""


class Misplaced(NamedTuple):
    """Secrets of a client's that it puts where none belongs; each one of its own, so that it can be told where it is."""

    wrong_key: str
    target: str
    body: str
    header: str
    password: str

    @classmethod
    def make(cls) -> Misplaced:
        """New ones, with a word in them to be found by."""
        return cls(*(f"misplaced-{name}-{secrets.token_hex(12)}" for name in cls._fields))


class Exercised(NamedTuple):
    """A stack after the run, and all that may not be found."""

    stack: FullStack
    keys: dict[str, str]
    """Name -> plain secret that is valid on this stack."""
    misplaced: Misplaced
    logs: list[Path]
    answers: list[bytes]
    printed: str
    pids: list[int]
    metrics: list[bytes]


def ask(url: str, method: str, path: str, body: bytes = b"", **fields: str) -> bytes:
    """One request; the whole answer, header fields too."""
    connection = http.client.HTTPConnection(str(urlsplit(url).hostname), urlsplit(url).port, timeout=30)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): text for name, text in fields.items()})
        response = connection.getresponse()
        return f"{response.status} {response.getheaders()}".encode() + response.read()
    finally:
        connection.close()


def clickhouse_password(pid: int) -> str:
    """What a service was given to log in at ClickHouse."""
    variables = dict(line.partition(b"=")[::2] for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    password = urlsplit(variables[b"CLICKLEDGER_CLICKHOUSE_URL"].decode()).password
    assert password
    return password


@pytest.fixture(scope="module")
def exercised(guard: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exercised]:
    """A stack of its own, used well and badly; everything that it said."""
    folder = tmp_path_factory.mktemp("secrets")
    stack = FullStack(guard, folder / "up", env={"CLICKLEDGER_LOG_LEVEL": "DEBUG", **LOCAL_WEBHOOKS})
    ready, misplaced = stack.ready, Misplaced.make()
    keys = {name: ready[name] for name in ("key", "reports_key", "admin_key")}
    created = run(stack, "keys", "create", "--tenant", "default", "--grants", "shortlinkclicks")
    keys["created"] = created.stdout.strip()
    keys["owner password"] = str(urlsplit(ready["clickhouse_owner"]).password)
    for service in ("sink", "reporting"):
        keys[f"{service}'s password"] = clickhouse_password(ready["pids"][service])
    keys["seal key"] = (stack.data / "seal.key").read_text().strip()
    keys |= make_webhook(ready, keys)
    answers = [*use_well(ready, keys), *use_badly(ready, keys, misplaced)]
    reports = start_badly(guard, stack, folder, misplaced)
    answers.append(ask(reports_url(stack, reports), "GET", "/v1/reports/ctr", **bearer(keys["reports_key"])))
    printed = "".join(commands_that_fail(stack, misplaced)) + created.stderr
    audit_is_clean(stack)
    pids = [*stack.pids(), stack.supervisor.pid, reports.pid]
    ports = [int(each.read_text()) for each in (stack.data / "health").iterdir() if "-http-" not in each.name]
    metrics = [ask(f"http://127.0.0.1:{port}", "GET", "/metrics") for port in ports]
    yield Exercised(stack, keys, misplaced, [stack.supervisor.log, reports.log], answers, printed, pids, metrics)
    reports.stop()
    stack.close()


def bearer(key: str) -> dict[str, str]:
    """The header field of a key."""
    return {"authorization": f"Bearer {key}"}


def make_webhook(ready: dict[str, Any], keys: dict[str, str]) -> dict[str, str]:
    """A webhook that nobody listens to; its secrets, of which the answer is shown once and not kept here."""
    secret = {"webhook token": f"webhook-token-{secrets.token_hex(12)}", "webhook field": secrets.token_hex(12)}
    url = f"http://127.0.0.1:9/{secret['webhook token']}"
    body = json.dumps({"url": url, "headers": {"X-Key": secret["webhook field"]}}).encode()
    made = ask(ready["reports"], "POST", "/v1/webhooks", body, **bearer(keys["reports_key"]))
    (signing,) = re.findall(rb"whsec_[A-Za-z0-9+/=]+", made)
    return secret | {"webhook secret": signing.decode()}


def use_well(ready: dict[str, Any], keys: dict[str, str]) -> list[bytes]:
    """Every key where it belongs."""
    click = json.dumps({"short-url": ready["short_url"]}).encode()
    return [
        ask(ready["api"], "POST", CLICKS, click, **bearer(keys["key"])),
        ask(ready["api"], "POST", CLICKS, click, idempotency_key="once", **bearer(keys["created"])),
        ask(ready["api"], "POST", BATCH, click, **bearer(keys["key"])),
        ask(ready["api"], "GET", "/v1/links?short_url=x.example/y", **bearer(keys["admin_key"])),
        ask(ready["reports"], "GET", "/v1/reports/ctr", **bearer(keys["reports_key"])),
        ask(ready["reports"], "POST", "/v1/webhooks", b'{"url":1}', **bearer(keys["reports_key"])),
    ]


def use_badly(ready: dict[str, Any], keys: dict[str, str], misplaced: Misplaced) -> list[bytes]:
    """Wrong keys, right keys in malformed requests, and secrets where none belongs."""
    api, reports, key, admin = ready["api"], ready["reports"], keys["key"], keys["admin_key"]
    body = json.dumps({"short-url": ready["short_url"], "token": misplaced.body}).encode()
    answers = [
        ask(api, "POST", CLICKS, body, **bearer(key)),
        ask(api, "POST", CLICKS, body[:-1], **bearer(key)),
        ask(api, "POST", CLICKS, b'{"' + misplaced.body.encode(), **bearer(key)),
        ask(api, "POST", BATCH, b"x" * 2_000_000, **bearer(key)),
        ask(api, "POST", "/v1/links", b'{"short_url":1,"%b":2}' % misplaced.body.encode(), **bearer(admin)),
        ask(api, "POST", "/v1/promotions", b"\xff{", **bearer(admin)),
    ]
    for url, path in ((api, CLICKS), (api, "/v1/links"), (api, "/nothing"), (reports, "/v1/reports/ctr")):
        for method in ("GET", "POST", "BREW"):
            answers += [
                ask(url, method, f"{path}?key={misplaced.target}", **bearer(key)),
                ask(url, method, f"{path}/{misplaced.target}", **bearer(keys["reports_key"])),
                ask(url, method, path, **bearer(misplaced.wrong_key)),
                ask(url, method, path, authorization=f"Basic {key}"),
                ask(url, method, path, x_api_key=misplaced.header, cookie=f"a={misplaced.header}", **bearer(key)),
            ]
    wrong = urlsplit(ready["clickhouse"])
    answers.append(
        ask(
            f"http://127.0.0.1:{wrong.port}",
            "POST",
            "/",
            b"SELECT 1",
            x_clickhouse_user="default",
            x_clickhouse_key=misplaced.password,
        )
    )
    return answers


def start_badly(guard: Any, stack: FullStack, folder: Path, misplaced: Misplaced) -> Child:
    """A reporting service whose ClickHouse password is wrong."""
    owner = stack.ready["clickhouse_owner"]
    env = {
        "CLICKLEDGER_DATA": str(folder / "wrong"),
        "CLICKLEDGER_KAFKA_BOOTSTRAP": stack.ready["kafka"],
        "CLICKLEDGER_CLICKHOUSE_URL": owner.replace(str(urlsplit(owner).password), misplaced.password),
        "CLICKLEDGER_REPORTING_PORT": "0",
        "CLICKLEDGER_LOG_LEVEL": "DEBUG",
        "CLICKLEDGER_SECRET_KEY": (stack.data / "seal.key").read_text().strip(),
    }
    return start_service(guard, "reporting", folder / "wrong.log", env)


def reports_url(stack: FullStack, reports: Child) -> str:
    """Where that service listens, as its log says."""
    found = re.search(r"http://127\.0\.0\.1:(\d+)", reports.log.read_text())
    assert found, stack.data
    return found[0]


def commands_that_fail(stack: FullStack, misplaced: Misplaced) -> list[str]:
    """What commands print when a secret of theirs is wrong."""
    failed = []
    for command, variable, text in (
        (("send", "--count", "1"), "CLICKLEDGER_KEY", misplaced.wrong_key),
        (("links", "load", os.devnull), "CLICKLEDGER_ADMIN_KEY", misplaced.wrong_key),
    ):
        os.environ[variable] = text
        try:
            done = run(stack, *command)
        finally:
            del os.environ[variable]
        failed.append(done.stdout + done.stderr)
    return [*failed, succeed(stack, "keys", "list"), succeed(stack, "tenants", "list")]


def holders(folder: Path, secret: str) -> list[str]:
    """Files below a folder that have a secret in them."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(str(path.relative_to(folder)) for path in files if secret.encode() in path.read_bytes())


def test_no_secret_on_disk(exercised: Exercised) -> None:
    """Of all files of the stack only `ready.json` has plain keys, and nobody but its owner can read it."""
    data = exercised.stack.data
    for name, secret in exercised.keys.items():
        expected = FILES_OF_SECRETS.get(name, ["ready.json"])
        assert holders(data, secret) == expected, name
    for path in (data / "ready.json", exercised.stack.ready_file):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for name in ("wrong_key", "target", "header", "password"):
        assert holders(data, getattr(exercised.misplaced, name)) == [], name


def test_a_secret_in_a_body_is_where_the_body_is(exercised: Exercised) -> None:
    """What a client puts into a click's unknown field stands in `clicks.raw`, and nowhere else."""
    found = holders(exercised.stack.data, exercised.misplaced.body)
    assert found
    assert all(re.match(r"kafka/.*/clicks\.raw-\d+/", path) for path in found), found


def test_no_secret_is_said(exercised: Exercised) -> None:
    """Neither logs, metrics, answers nor the output of commands have a secret, valid, wrong or misplaced.

    But an answer may name a wrong field of a body to the client that sent it.
    """
    said = {str(path): path.read_bytes() for path in exercised.logs}
    said |= {f"metrics {number}": text for number, text in enumerate(exercised.metrics)}
    said |= {f"answer {number}": text for number, text in enumerate(exercised.answers)}
    said["printed"] = exercised.printed.encode()
    assert len(exercised.metrics) >= 4
    for secret in (*exercised.keys.values(), *exercised.misplaced):
        found = [where for where, text in said.items() if secret.encode() in text]
        assert [w for w in found if secret != exercised.misplaced.body or not w.startswith("answer")] == [], secret


def test_no_secret_is_a_row(exercised: Exercised) -> None:
    """No column of any table has one, and of the key there is its id only."""
    owner = f"{exercised.stack.ready['clickhouse_owner']}"
    tables = execute(owner, "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine != 'Null'")
    rows = "".join(execute(owner, f"SELECT * FROM {name} FORMAT JSONEachRow") for name in tables.split())
    assert '"key_id":"default-key"' in rows
    for secret in (*exercised.keys.values(), *exercised.misplaced):
        assert secret not in rows


def test_no_secret_is_a_process_title(exercised: Exercised) -> None:
    """Command lines have none; environments, which only their user can read, what is needed there."""
    parts = exercised.stack.ready["pids"]
    need_it = {
        "owner password": {parts["clickhouse"]},
        "sink's password": {parts["clickhouse"], parts["sink"]},
        "reporting's password": {parts["clickhouse"], parts["reporting"]},
        "seal key": {parts["reporting"], parts["deliverer"], exercised.pids[-1]},
    }
    for pid in exercised.pids:
        process = Path(f"/proc/{pid}")
        command, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        for name, secret in exercised.keys.items():
            assert secret.encode() not in command, (name, command)
            assert secret.encode() not in environment or pid in need_it.get(name, ())
        assert stat.S_IMODE((process / "environ").stat().st_mode) == 0o400
