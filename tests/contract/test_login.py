"""Logging in to the dashboard over real HTTP: who gets a session, what ends it, and that no other page can use it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlencode

import pytest

from reporting.dashboard.attempts import ADDRESSES_MAX, WINDOW_S, Attempts
from reporting.dashboard.links import LASTS_MS, USED_MAX, LinkFault, LoginLinks
from reporting.dashboard.login import TEXTS, LoginFault
from shared.keys import digest_of
from shared.secret_box import SecretBox
from shared.settings import SecretSettings
from tests.support.api_service import Reply
from tests.support.catalog import NOW_MS, SECRET, key_record
from tests.support.reporting import LOGIN_FAILURES_MAX, READER, ReportingService, running

SEAL = "0123456789abcdef0123456789abcdef"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
OURS = {**FORM, "Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ReportingService]:
    """One with a lasting secret key."""
    with running(tmp_path / "links", SEAL) as service:
        yield service


def log_in(service: ReportingService, headers: Mapping[str, str] = OURS, **fields: str) -> Reply:
    """Post the form."""
    return service.ask("POST", "/login", headers, urlencode(fields or {"key": READER}).encode())


def cookie_of(reply: Reply) -> str:
    """The cookie as a browser sends it back."""
    return reply.headers["set-cookie"].partition(";")[0]


def status_with(service: ReportingService, cookie: str, method: str = "GET", **headers: str) -> int:
    """What the reports say to that cookie: 503 is ours, since their ClickHouse is away."""
    return service.ask(method, "/v1/reports/ctr", {"Cookie": cookie, **headers}).status


def test_a_key_becomes_a_session(service: ReportingService) -> None:
    """The cookie is out of reach of scripts and other sites, holds no key, and reads until its key is revoked."""
    reply = log_in(service)
    assert (reply.status, reply.headers["location"]) == (303, "/dashboard")
    flags = reply.headers["set-cookie"].lower()
    assert all(flag in flags for flag in ("httponly", "samesite=strict", "path=/", "max-age=60"))
    assert "secure" not in flags
    assert READER not in reply.headers["set-cookie"]
    cookie = cookie_of(reply)
    assert status_with(service, cookie) == 503
    assert status_with(service, cookie, Authorization=f"Bearer {SECRET}") == 403  # the header counts
    service.catalog.put("key", "k2", key_record(READER, key_id="k2", grants=["reports"], revoked=True))
    assert status_with(service, cookie) == 401


def test_a_session_outlives_its_process(service: ReportingService, tmp_path: Path) -> None:
    """Another process with the same secret key knows it, one with another key does not."""
    cookie = cookie_of(log_in(service))
    with running(tmp_path / "other", SEAL) as same, running(tmp_path / "third", "x" * 32) as other:
        assert status_with(same, cookie) == 503
        assert status_with(other, cookie) == 401


def test_https_makes_the_cookie_secure(service: ReportingService) -> None:
    """Behind a proxy that speaks https to the browser and http to us."""
    reply = log_in(service, {**OURS, "Origin": "https://reports.example"})
    assert "secure" in reply.headers["set-cookie"].lower()


def test_what_only_reads_takes_the_cookie(service: ReportingService) -> None:
    """A write needs the key itself; so does anything that another page, of another port too, made the browser send."""
    cookie = cookie_of(log_in(service))
    assert service.ask("POST", "/v1/login-links", {"Cookie": cookie}).status == 401
    for site in ("cross-site", "same-site"):
        assert status_with(service, cookie, **{"Sec-Fetch-Site": site}) == 401
    for site in ("same-origin", "none"):
        assert status_with(service, cookie, **{"Sec-Fetch-Site": site}) == 503


@pytest.mark.parametrize(
    "cookie", ["clickledger_session=x", "clickledger_session=", "a=b; ;=;", "clickledger_session=é"]
)
def test_a_forged_cookie(service: ReportingService, cookie: str) -> None:
    """It is as none."""
    assert service.ask("GET", "/v1/health", {"Cookie": cookie.encode().decode("latin-1")}).status == 401


FAULTS: list[tuple[LoginFault, Mapping[str, str], Mapping[str, str]]] = [
    (LoginFault.CROSS_SITE, {**FORM, "Sec-Fetch-Site": "cross-site"}, {"key": READER}),
    (LoginFault.CROSS_SITE, {**FORM, "Sec-Fetch-Site": "same-site"}, {"key": READER}),
    (LoginFault.CROSS_SITE, {**FORM, "Origin": "http://evil.example"}, {"key": READER}),
    (LoginFault.CROSS_SITE, {**FORM, "Origin": "null"}, {"key": READER}),
    (LoginFault.CROSS_SITE, {**FORM, "Origin": "http://["}, {"key": READER}),
    (LoginFault.MALFORMED, OURS, {"key": "x" * 5_000}),
    (LoginFault.MALFORMED, OURS, {"other": "x"}),
    (LoginFault.MALFORMED, OURS, {"key": READER, "once": "x"}),
    (LoginFault.MALFORMED, {"Content-Type": "application/json", "Sec-Fetch-Site": "same-origin"}, {"key": READER}),
    (LoginFault.WRONG_KEY, OURS, {"key": "wrong"}),
    (LoginFault.WRONG_KEY, OURS, {"key": ""}),
    (LoginFault.NO_GRANT, OURS, {"key": SECRET}),
]


@pytest.mark.parametrize(("fault", "headers", "fields"), FAULTS)
def test_who_is_not_logged_in(
    service: ReportingService, fault: LoginFault, headers: Mapping[str, str], fields: Mapping[str, str]
) -> None:
    """The page comes again with its reason, and no cookie."""
    reply = log_in(service, headers, **fields)
    status, text = TEXTS[fault]
    assert reply.status == status
    assert text in reply.body.decode()
    assert "set-cookie" not in reply.headers


def test_a_browser_that_says_neither_site_nor_a_foreign_origin(service: ReportingService) -> None:
    """Our own origin, and a client that is no browser, may log in."""
    assert log_in(service, {**FORM, "Origin": f"http://127.0.0.1:{service.port}"}).status == 303
    assert log_in(service, FORM).status == 303


def test_attempts_are_bounded(service: ReportingService) -> None:
    """After so many failures there is a time to wait, but not for a right key or link: others share the address."""
    made = service.ask("POST", "/v1/login-links", {"Authorization": f"Bearer {READER}"}).json
    for _ in range(LOGIN_FAILURES_MAX):
        assert log_in(service, key="wrong").status == 401
    for fields in ({"key": "wrong"}, {"once": "never made"}, {"key": SECRET}):
        reply = log_in(service, **fields)
        assert (reply.status, reply.headers["retry-after"]) == (429, "300")
    assert log_in(service).status == 303
    assert log_in(service, once=made["path"].partition("#once=")[2]).status == 303


def test_the_bound_of_attempts_by_address() -> None:
    """Each address has its own count, an IPv6 network one; it ends with its window; addresses are bounded too."""
    attempts = Attempts(2)
    for _ in range(2):
        attempts.failed("10.0.0.1", 0.0)
        attempts.failed("2001:db8::1", 0.0)
    assert attempts.wait_s("10.0.0.1", 1.0) == WINDOW_S - 1.0
    assert attempts.wait_s("2001:db8::2", 1.0) > 0
    assert attempts.wait_s("10.0.0.2", 1.0) == 0
    assert attempts.wait_s("10.0.0.1", WINDOW_S) == 0
    for number in range(ADDRESSES_MAX):
        attempts.failed(f"10.{number // 65536}.{number // 256 % 256}.{number % 256}x", 1.0)
        attempts.failed(f"11.{number // 65536}.{number // 256 % 256}.{number % 256}", 1.0)
    assert len(attempts._failed) == ADDRESSES_MAX


def test_a_login_link_works_once(service: ReportingService) -> None:
    """Made with the key, opened once, over processes too; the key itself does not stand in it."""
    reply = service.ask("POST", "/v1/login-links", {"Authorization": f"Bearer {READER}"})
    assert (reply.status, reply.headers["cache-control"], reply.json["lasts_s"]) == (201, "no-store", 600)
    path, _, token = reply.json["path"].partition("#once=")
    assert path == "/login"
    assert READER not in reply.body.decode()
    first, second = log_in(service, once=token), log_in(service, once=token)
    assert first.status == 303
    assert status_with(service, cookie_of(first)) == 503
    assert (second.status, TEXTS[LinkFault.USED][1] in second.body.decode()) == (401, True)


def test_a_login_link_of_a_revoked_key(service: ReportingService) -> None:
    """The key is looked up when the link is opened."""
    made = service.ask("POST", "/v1/login-links", {"Authorization": f"Bearer {READER}"}).json
    service.catalog.put("key", "k2", key_record(READER, key_id="k2", grants=["reports"], revoked=True))
    assert log_in(service, once=made["path"].partition("#once=")[2]).status == 401


def test_what_is_wrong_with_a_link(tmp_path: Path) -> None:
    """One that has ended, is another machine's, was used by another process, or was never made."""
    settings = SecretSettings(secret_key=SEAL)  # type: ignore[arg-type]  # pydantic makes the secret of it

    def at(node: str) -> LoginLinks:
        return LoginLinks(SecretBox(settings, "test"), node, tmp_path)

    token = at("a").make("digest", NOW_MS)
    assert at("a").take(token, NOW_MS + LASTS_MS) is LinkFault.ENDED
    assert at("b").take(token, NOW_MS) is LinkFault.ELSEWHERE
    assert at("a").take("never made", NOW_MS) is LinkFault.UNKNOWN
    assert at("a").take(token, NOW_MS) == "digest"
    assert at("a").take(token, NOW_MS) is LinkFault.USED
    later = at("a").make("digest", NOW_MS + LASTS_MS)
    assert at("a").take(later, NOW_MS + LASTS_MS) == "digest"
    assert len(list(tmp_path.iterdir())) == 1  # the ended one's file is gone


def test_used_links_are_bounded_by_key(service: ReportingService, tmp_path: Path) -> None:
    """Whoever used too many is told so, as often as it is asked, and does not fail; another key's links still open."""
    made = service.ask("POST", "/v1/login-links", {"Authorization": f"Bearer {READER}"}).json
    folder = tmp_path / "links"
    folder.mkdir()
    key = digest_of(READER.encode())[:16]
    far = time.time_ns()
    for number in range(USED_MAX):
        (folder / f"{key}-{number}.{far}").touch()
    for _ in range(LOGIN_FAILURES_MAX + 1):
        assert log_in(service, once=made["path"].partition("#once=")[2]).status == 503
    assert log_in(service, key="wrong").status == 401
    links = LoginLinks(SecretBox(SecretSettings(secret_key=SEAL), "test"), "a", folder)  # type: ignore[arg-type]  # as below
    assert links.take(links.make("another", NOW_MS), NOW_MS) == "another"


def test_logging_out(service: ReportingService) -> None:
    """The cookie is taken back; only our own page may ask for it."""
    reply = service.ask("POST", "/logout", OURS)
    assert (reply.status, reply.headers["location"]) == (303, "/login")
    assert "max-age=0" in reply.headers["set-cookie"].lower()
    assert service.ask("POST", "/logout", {"Sec-Fetch-Site": "cross-site"}).status == 403


@pytest.mark.parametrize(
    ("text", "goes_to"),
    [
        ("/dashboard?range=7&promotion=a%20b", "/dashboard?range=7&promotion=a%20b"),
        ("//evil.example/dashboard", "/dashboard"),
        ("//[", "/dashboard"),
        ("https://evil.example/dashboard", "/dashboard"),
        ("/\\evil.example", "/dashboard"),
        ("/dashboard?a=\r\nSet-Cookie: x=y", "/dashboard"),
        ("/logout", "/dashboard"),
    ],
)
def test_where_a_login_leads(service: ReportingService, text: str, goes_to: str) -> None:
    """Back to the dashboard as it was, and nowhere else."""
    assert log_in(service, key=READER, next=text).headers["location"] == goes_to


def test_health_says_what_it_does_not_know(service: ReportingService) -> None:
    """Without ClickHouse and Kafka the answer says so, and is no error."""
    status, body = service.get("/v1/health")
    assert status == 200
    assert (body["tenant"], body["clickhouse"]["state"], body["kafka"]["state"]) == ("acme", *["unreachable"] * 2)
    assert (body["lag"]["behind_ms"], body["audit"]["state"], body["gaps"]["accepted"]) == (None, "unknown", None)
    assert body["freshness"] == {"window_s": 900, "rows": None, "p50_ms": None, "p99_ms": None}


def test_the_files_of_the_page(service: ReportingService) -> None:
    """The page names files that are there, with types, for ever; it is asked for again each time; nothing leads outside."""
    page = service.ask("GET", "/dashboard", {})
    assert (page.status, page.headers["cache-control"]) == (200, "no-cache")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert service.ask("GET", "/dashboard", {"If-None-Match": page.headers["etag"]}).status == 304
    text = page.body.decode()
    assert "://" not in text
    names = [part.partition('"')[0] for part in text.split('="/dashboard/static/')[1:]]
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    for name in names:
        plain = service.ask("GET", f"/dashboard/static/{name}", {})
        packed = service.ask("GET", f"/dashboard/static/{name}", {"Accept-Encoding": "gzip"})
        assert plain.status == packed.status == 200
        assert plain.headers["content-type"].startswith(kinds[name.rpartition(".")[2]])
        assert "immutable" in plain.headers["cache-control"]
        assert len(packed.body) <= len(plain.body)
    older = names[0].partition("/")[2]
    assert service.ask("GET", f"/dashboard/static/older/{older}", {}).headers["cache-control"] == "no-cache"
    for name in ("../routes.py", "..%2froutes.py", "login.html", "nothing.js", "vendor/"):
        assert service.ask("GET", f"/dashboard/static/x/{name}", {}).status == 404
    assert service.ask("GET", "/", {}).headers["location"] == "/dashboard"


def test_nobody_frames_the_dashboard(service: ReportingService) -> None:
    """Every answer of it, refusals and redirects too, forbids frames of other pages and whatever is not our own."""
    page = service.ask("GET", "/dashboard", {})
    (etag, name) = page.headers["etag"], page.body.decode().split('="/dashboard/static/')[1].partition('"')[0]
    answers = [
        *(page, service.ask("GET", "/dashboard", {"If-None-Match": etag}), service.ask("GET", "/", {})),
        *(service.ask("GET", f"/dashboard/static/{path}", {}) for path in (name, "x/nothing.js")),
        *(service.ask("GET", "/login", {}), log_in(service, key="wrong"), log_in(service, key=READER)),
        *(service.ask("POST", "/logout", OURS), service.ask("POST", "/logout", {"Sec-Fetch-Site": "cross-site"})),
    ]
    assert {answer.status for answer in answers} == {200, 303, 304, 307, 401, 403, 404}
    for answer in answers:
        policy = answer.headers["content-security-policy"].split("; ")
        assert {"frame-ancestors 'none'", "default-src 'none'"} <= set(policy)
        assert answer.headers["x-frame-options"] == "DENY"
