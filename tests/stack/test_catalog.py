"""The catalog: topic, follower and reader together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import lmdb
import orjson
import pytest

from shared.catalog import Catalog, CatalogFollower, CatalogWriter, Entry, Kind
from shared.catalog.applying import Copy
from shared.catalog.store import Store, current
from shared.kafka import Admin, Producer, TopicSpec
from shared.settings import CatalogSettings, KafkaSettings
from shared.stored_links import NEVER, read_terms, record_of
from tests.support.processes import WAIT_S

SETTINGS = CatalogSettings(catalog_map_bytes=64 << 20)
KINDS = [str(kind).encode() for kind in Kind]


@pytest.fixture
async def kafka(kafka_bootstrap: str, names: Any) -> KafkaSettings:
    """Settings with a catalog topic of the test's own."""
    settings = KafkaSettings(kafka_bootstrap=kafka_bootstrap, topic_catalog=names.catalog)
    async with Admin(settings) as admin:
        await admin.create(TopicSpec(names.catalog, 1, 1, {"cleanup.policy": "compact"}))
    return settings


@pytest.fixture
async def writer(kafka: KafkaSettings) -> AsyncIterator[CatalogWriter]:
    """A writer on a connected producer."""
    producer = Producer(kafka, "test")
    await producer.start()
    yield CatalogWriter(kafka, producer)
    await producer.close()


@pytest.fixture
async def catalog(kafka: KafkaSettings, tmp_path: Path) -> AsyncIterator[Catalog]:
    """A reader with its follower running."""
    follower = asyncio.ensure_future(CatalogFollower(SETTINGS, kafka, tmp_path).run())
    catalog = Catalog(SETTINGS, tmp_path)
    await catalog.wait_until_current(WAIT_S)
    yield catalog
    follower.cancel()
    await asyncio.wait([follower])
    catalog.close()


async def test_records_arrive_and_are_deleted(catalog: Catalog, writer: CatalogWriter) -> None:
    """A written record is read back at its version, and gone after its tombstone."""
    version = await writer.put(Kind.TENANT, "acme", {"tenant": "acme"})
    await catalog.wait_for(version, WAIT_S)
    assert catalog.tenant("acme") == {"tenant": "acme"}
    await catalog.wait_for(await writer.put(Kind.TENANT, "acme", None), WAIT_S)
    assert catalog.tenant("acme") is None


async def test_a_topic_that_is_written_to_all_the_time_has_a_complete_copy(
    kafka: KafkaSettings, writer: CatalogWriter, tmp_path: Path
) -> None:
    """Spools renew their records without a pause; a copy that is a moment behind is level with that moment."""

    async def write() -> None:
        for n in range(100_000):
            await writer.put(Kind.TENANT, f"t{n % 100}", {"tenant": f"t{n}"})

    writing = [asyncio.ensure_future(write()) for _ in range(8)]
    follower = asyncio.ensure_future(CatalogFollower(SETTINGS, kafka, tmp_path).run())
    catalog = Catalog(SETTINGS, tmp_path)
    try:
        await catalog.wait_until_current(WAIT_S)
        assert not any(each.done() for each in writing)
    finally:
        for each in (*writing, follower):
            each.cancel()
        await asyncio.wait([*writing, follower])
        catalog.close()


async def test_a_copy_that_has_read_to_the_end_says_so_at_once(
    kafka: KafkaSettings, writer: CatalogWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with the next question that is due anyway: commands and services wait for it at their start."""
    await writer.put(Kind.TENANT, "acme", {"tenant": "acme"})
    monkeypatch.setattr("shared.catalog.follower.HEAR_EVERY_S", 60.0)
    follower = asyncio.ensure_future(CatalogFollower(SETTINGS, kafka, tmp_path).run())
    catalog = Catalog(SETTINGS, tmp_path)
    try:
        await catalog.wait_until_current(20)
        assert catalog.tenant("acme") == {"tenant": "acme"}
    finally:
        follower.cancel()
        await asyncio.wait([follower])
        catalog.close()


def _names(folder: Path) -> set[str]:
    """What stands in a folder, but for the name of where the copy stands."""
    return {path.name for path in folder.iterdir() if path != current(folder)}


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not is_so():
            await asyncio.sleep(0.02)


async def test_a_loose_copy_is_rewritten_while_it_is_followed(
    catalog: Catalog, writer: CatalogWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes meanwhile arrive within a second and stay, also one of the moment in which readers turn to the new copy."""
    monkeypatch.setattr("shared.catalog.rewriting.PAGES_MIN", 50)
    monkeypatch.setattr("shared.catalog.rewriting.AT_ONCE", 100)
    monkeypatch.setattr("shared.catalog.rewriting.PAUSE_S", 0.04)
    monkeypatch.setattr("shared.catalog.follower.REWRITE_PAUSE_S", 0.0)
    known: dict[str, bytes] = {}

    async def put(numbers: range) -> None:
        records = {f"h/{n * 7919 % 10**6:06d}": {"link": "x" * (n % 90), "n": n} for n in numbers}
        version = await writer.put_many([Entry(Kind.LINK, key, record) for key, record in records.items()])
        await catalog.wait_for(version, 1.5)
        known.update({key: orjson.dumps(record) for key, record in records.items()})
        gone = next(iter(known))
        await catalog.wait_for(await writer.put(Kind.LINK, gone, None), 1.5)
        del known[gone]

    await put(range(6_000))
    places, n = {current(tmp_path)}, 6_000
    async with asyncio.timeout(WAIT_S):
        while len(places) < 3:
            await put(range(n, n + 50))
            n += 50
            places.add(current(tmp_path))
            assert catalog.link(next(iter(known))) == known[next(iter(known))]
    assert dict(catalog.scan(Kind.LINK)) == known
    assert catalog.is_current


async def test_a_copy_that_cannot_catch_up_stays_loose(
    catalog: Catalog,
    writer: CatalogWriter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It goes on as before, and nothing that was written meanwhile is missing."""
    monkeypatch.setattr("shared.catalog.rewriting.PAGES_MIN", 1)
    monkeypatch.setattr("shared.catalog.rewriting.PAUSE_S", 0.5)
    monkeypatch.setattr("shared.catalog.follower.CATCH_UP_S_MAX", 0.0)
    n = 0
    async with asyncio.timeout(WAIT_S):
        while "stays loose for now" not in caplog.text:
            await catalog.wait_for(await writer.put(Kind.TENANT, f"t{n}", {"tenant": f"t{n}"}), 1.5)
            n += 1
    await catalog.wait_for(await writer.put(Kind.TENANT, f"t{n}", {"tenant": f"t{n}"}), 1.5)
    assert len(list(catalog.scan(Kind.TENANT))) == n + 1
    await _until(lambda: not any(name.startswith("copy-") for name in _names(tmp_path)))
    assert current(tmp_path) == tmp_path


async def test_a_rewritten_copy_is_gone_on_with(
    kafka: KafkaSettings, writer: CatalogWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a follower that starts later; what others have left half-written is removed."""
    monkeypatch.setattr("shared.catalog.rewriting.PAGES_MIN", 1)
    await writer.put_many([Entry(Kind.TENANT, f"t{n}", {"tenant": f"t{n}"}) for n in range(1_000)])
    for _ in range(2):
        (tmp_path / "copy-half").mkdir()
        follower = asyncio.ensure_future(CatalogFollower(SETTINGS, kafka, tmp_path).run())
        catalog = Catalog(SETTINGS, tmp_path)
        await catalog.wait_until_current(WAIT_S)
        await _until(lambda: _names(tmp_path) == {"current", "heard", "follower.lock"})
        await catalog.wait_for(await writer.put(Kind.TENANT, "late", {"tenant": "late"}), WAIT_S)
        assert len(list(catalog.scan(Kind.TENANT))) == 1_001
        follower.cancel()
        await asyncio.wait([follower])
        catalog.close()


async def test_a_secret_is_found_by_digest_until_it_is_replaced(catalog: Catalog, writer: CatalogWriter) -> None:
    """The digest index follows the key's record: new secrets are found, former ones are not."""
    await writer.put(Kind.KEY, "k1", {"key_id": "k1", "secrets": [{"digest": "aa"}, {"digest": "bb"}]})
    await catalog.wait_for(await writer.put(Kind.KEY, "k1", {"key_id": "k1", "secrets": [{"digest": "bb"}]}), WAIT_S)
    assert catalog.key_by_digest("aa") is None
    assert (catalog.key_by_digest("bb") or {})["key_id"] == "k1"


async def test_resolve_prefers_the_exact_link_then_the_longest_prefix(catalog: Catalog, writer: CatalogWriter) -> None:
    """Whole path segments only, and a link that is not a prefix matches only itself."""
    links = {"h/a": "prefix", "h/a/b": "prefix", "h/a/b/c": "exact", "h/" + "x" * 600: "exact"}
    entries = [Entry(Kind.LINK, key, {"link": key, "match": match}) for key, match in links.items()]
    await catalog.wait_for(await writer.put_many(entries), WAIT_S)

    def rule_and_link(key: str) -> tuple[str, str] | None:
        match = catalog.resolve(key)
        return match and (match.rule, orjson.loads(record_of(match.link))["link"])

    assert rule_and_link("h/a/b/c") == ("exact", "h/a/b/c")
    assert rule_and_link("h/a/b/c/d") == ("prefix", "h/a/b")
    assert rule_and_link("h/ab") is None
    assert rule_and_link("h/" + "x" * 600) == ("exact", "h/" + "x" * 600)
    assert rule_and_link("h/" + "x" * 599 + "y") is None
    together = catalog.exact_links(["h/" + "x" * 600, "h/a"])
    assert together is not None
    assert [orjson.loads(record_of(link))["link"] for link in together] == ["h/" + "x" * 600, "h/a"]
    assert catalog.exact_links(["h/a", "h/a/x"]) is None


async def test_a_restarted_follower_resumes_and_one_works_per_folder(
    kafka: KafkaSettings, writer: CatalogWriter, tmp_path: Path
) -> None:
    """A second follower waits for the lock; a later one goes on from the stored version."""
    await writer.put_many([Entry(Kind.TENANT, f"t{n}", {"tenant": f"t{n}"}) for n in range(1_000)])
    tasks = [asyncio.ensure_future(CatalogFollower(SETTINGS, kafka, tmp_path).run()) for _ in range(2)]
    catalog = Catalog(SETTINGS, tmp_path)
    await catalog.wait_for(999, WAIT_S)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert len(list(catalog.scan(Kind.TENANT))) == 1_000
    later = asyncio.ensure_future(CatalogFollower(SETTINGS, kafka, tmp_path).run())
    await catalog.wait_for(await writer.put(Kind.TENANT, "late", {"tenant": "late"}), WAIT_S)
    assert catalog.tenant("late")
    assert catalog.tenant("t0")
    later.cancel()
    await asyncio.wait([later])
    catalog.close()


async def test_a_recreated_topic_replaces_the_copy(kafka: KafkaSettings, writer: CatalogWriter, tmp_path: Path) -> None:
    """A topic that is shorter than what was applied is read again from its start."""
    await writer.put_many([Entry(Kind.TENANT, f"t{n}", {"tenant": f"t{n}"}) for n in range(5)])
    first = asyncio.ensure_future(CatalogFollower(SETTINGS, kafka, tmp_path).run())
    catalog = Catalog(SETTINGS, tmp_path)
    await catalog.wait_for(4, WAIT_S)
    first.cancel()
    await asyncio.wait([first])
    async with Admin(kafka) as admin:
        await admin.delete(kafka.topic_catalog)
        while kafka.topic_catalog in await admin.topics():
            await asyncio.sleep(0.1)
        await admin.create(TopicSpec(kafka.topic_catalog, 1, 1, {"cleanup.policy": "compact"}))
    producer = Producer(kafka, "again")
    await producer.start()
    await CatalogWriter(kafka, producer).put(Kind.TENANT, "only", {"tenant": "only"})
    again = asyncio.ensure_future(CatalogFollower(SETTINGS, kafka, tmp_path).run())
    async with asyncio.timeout(WAIT_S):
        while catalog.tenant("only") is None:
            await asyncio.sleep(0.05)
            catalog.refresh()
    assert catalog.tenant("t0") is None
    again.cancel()
    await asyncio.wait([again])
    await producer.close()
    catalog.close()


async def test_garbage_in_the_topic_is_ignored(catalog: Catalog, kafka: KafkaSettings, writer: CatalogWriter) -> None:
    """Records of an unknown kind or without a JSON object change nothing but the version."""
    producer = Producer(kafka, "garbage")
    await producer.start()
    for key, value in ((b"nokind", b"{}"), (b"link:h/x", b"not json"), (b"key:k", b"[1]"), (b"link:", None)):
        await producer.send(kafka.topic_catalog, 0, key=key, value=value, timestamp_ms=1)
    await catalog.wait_for(await writer.put(Kind.TENANT, "good", {"tenant": "good"}), WAIT_S)
    assert catalog.link("h/x") is None
    assert (catalog.link(""), catalog.exact_links(["h/x", ""])) == (None, None)
    assert catalog.tenant("good")
    await producer.close()


async def test_a_copy_of_another_form_is_not_read(kafka: KafkaSettings, writer: CatalogWriter, tmp_path: Path) -> None:
    """A copy as an earlier version left it has nothing to say; its follower drops it and reads the topic again."""
    await writer.put(Kind.LINK, "h/a", {"link": "h/a", "tenant": "acme", "registered_at": 1})
    env = lmdb.open(str(tmp_path), map_size=64 << 20, max_dbs=3)
    with env.begin(write=True) as txn:
        txn.put(b"link:h/a", b'{"link":"h/old"}', db=env.open_db(b"records", txn))
        for name, value in ((b"version", b"0"), (b"end", b"1"), (b"complete", b"1"), (b"kinds", b" ".join(KINDS))):
            txn.put(name, value, db=env.open_db(b"meta", txn))
    env.close()
    (tmp_path / "heard").touch()
    catalog = Catalog(SETTINGS, tmp_path)
    assert (catalog.link("h/a"), catalog.version, catalog.is_ready) == (None, -1, False)
    follower = asyncio.ensure_future(CatalogFollower(SETTINGS, kafka, tmp_path).run())
    await catalog.wait_for(0, WAIT_S)
    assert orjson.loads(catalog.link("h/a") or b"")["link"] == "h/a"
    follower.cancel()
    await asyncio.wait([follower])
    catalog.close()
    with Store.at(tmp_path, SETTINGS.catalog_map_bytes).env.begin() as txn:
        assert {name.rpartition(b".")[0] for name, _ in txn.cursor()} == {b"links", b"records", b"digests", b"meta"}


async def test_links_are_given_as_they_were_written(catalog: Catalog, writer: CatalogWriter) -> None:
    """However a link is asked for, its record is the bytes of the topic; what says more of it is the copy's own."""
    record = {"link": "h/a", "tenant": "acme", "registered_at": 1, "match": "prefix"}
    await catalog.wait_for(await writer.put(Kind.LINK, "h/a", record), WAIT_S)
    raw = orjson.dumps(record)
    assert (catalog.link("h/a"), list(catalog.scan(Kind.LINK))) == (raw, [("h/a", raw)])
    assert catalog.record(Kind.LINK, "h/a") == record
    below = catalog.resolve("h/a/b")
    assert below is not None
    assert (record_of(below.link), read_terms(below.link)) == (raw, ("acme", 1, NEVER))


async def test_many_links_are_given_as_they_were_written(
    catalog: Catalog, writer: CatalogWriter, kafka: KafkaSettings, tmp_path: Path
) -> None:
    """Links of two campaigns, compressed with others as the dictionary: to a reader from before, and to one that comes later."""
    records = {
        f"h/{campaign}/{n}": {"link": f"h/{campaign}/{n}", "tenant": "acme", "to": campaign * 20, "registered_at": n}
        for campaign in ("spring", "autumn")
        for n in range(3_000)
    }
    raws = {key: orjson.dumps(record) for key, record in records.items()}
    entries = [Entry(Kind.LINK, key, record) for key, record in records.items()]
    await catalog.wait_for(await writer.put_many(entries), WAIT_S)
    later = Catalog(SETTINGS, tmp_path)
    for each in (catalog, later):
        assert dict(each.scan(Kind.LINK)) == raws
        assert {key: each.link(key) for key in raws} == raws
        together = each.exact_links(list(raws))
        assert together is not None
        assert [record_of(link) for link in together] == list(raws.values())
    later.close()
    with Store.at(tmp_path, SETTINGS.catalog_map_bytes).env.begin() as txn:
        links_table = Store.at(tmp_path, SETTINGS.catalog_map_bytes).links
        stored = sum(len(value) for _, value in txn.cursor(links_table))
    assert stored < sum(map(len, raws.values())) / 2


async def test_a_full_disk_keeps_the_copy_as_it_is(
    catalog: Catalog, writer: CatalogWriter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is there is served, and when there is room again it goes on, with nothing in mind that was never written."""
    records = {f"h/spring/{n}": {"link": f"h/spring/{n}", "tenant": "acme", "to": "spring" * 20} for n in range(3_000)}
    known = await writer.put(Kind.TENANT, "acme", {"tenant": "acme"})
    await catalog.wait_for(known, WAIT_S)
    apply_some, tries = Copy._apply_some, []

    def apply_and_fail(copy: Copy, txn: Any, records: Any) -> int:
        tries.append(apply_some(copy, txn, records))
        raise lmdb.DiskError("No space left on device")

    with monkeypatch.context() as full:
        full.setattr(Copy, "_apply_some", apply_and_fail)
        version = await writer.put_many([Entry(Kind.LINK, key, record) for key, record in records.items()])
        async with asyncio.timeout(WAIT_S):
            while len(tries) < 3:
                await asyncio.sleep(0.05)
        catalog.refresh()
        assert (catalog.version, catalog.tenant("acme")) == (known, {"tenant": "acme"})
    await catalog.wait_for(version, WAIT_S)
    assert {key: catalog.link(key) for key in records} == {key: orjson.dumps(record) for key, record in records.items()}
    assert "the copy of the catalog cannot be written: No space left on device, " in caplog.text
