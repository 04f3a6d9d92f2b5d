"""The broker's jars and their lock."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from clickledger.stack import jars
from clickledger.stack.jars import Jar, JarMismatch, cache_folder, ensure_jars, format_lock, parse_lock
from shared.errors import OperatorError

LOCK_TEXT = jars.LOCK_FILE.read_text(encoding="utf-8")


def cached(folder: Path, contents: dict[str, bytes]) -> Path:
    """A cache with these jars, and a lock that names them."""
    locked = [Jar("org.example", name, "1.0", hashlib.sha256(text).hexdigest()) for name, text in contents.items()]
    (folder / "jars").mkdir()
    for jar in locked:
        (folder / "jars" / jar.file_name).write_bytes(contents[jar.artifact])
    lock = folder / "test.lock"
    lock.write_text(format_lock(locked))
    return lock


def silent(_text: str) -> None:
    """A listener that must not be told of a download."""
    raise AssertionError("nothing is to be downloaded")


def test_the_committed_lock_is_in_its_own_format() -> None:
    """Reading and writing the lock gives the same bytes."""
    assert format_lock(parse_lock(LOCK_TEXT)) == LOCK_TEXT


def test_the_committed_lock_names_the_broker_and_a_log_binding() -> None:
    """Every root is in the lock."""
    assert set(jars.ROOTS) <= {jar.coordinate for jar in parse_lock(LOCK_TEXT)}


def test_the_committed_lock_holds_no_address() -> None:
    """Coordinates and sums only: no scheme, no path, no host."""
    assert "//" not in LOCK_TEXT
    assert "http" not in LOCK_TEXT


def test_cached_jars_are_used_without_a_network(tmp_path: Path) -> None:
    """A full cache gives the class path, in the lock's order."""
    lock = cached(tmp_path, {"a": b"one", "b": b"two"})
    assert [path.read_bytes() for path in ensure_jars(tmp_path, say=silent, lock=lock)] == [b"one", b"two"]


def test_a_tampered_cached_jar_is_refused(tmp_path: Path) -> None:
    """The sum is compared at every use, not only after a download."""
    lock = cached(tmp_path, {"a": b"one"})
    (path,) = ensure_jars(tmp_path, say=silent, lock=lock)
    path.write_bytes(b"evil")
    with pytest.raises(JarMismatch, match="delete the file"):
        ensure_jars(tmp_path, say=silent, lock=lock)


@pytest.mark.parametrize("line", ["a:b:1", "a:b 00", f"a:b:1 {'0' * 63}g", f"a:b:c:1 {'0' * 64}", f"a:b:1 {'A' * 64}"])
def test_a_line_of_another_shape_is_refused(line: str) -> None:
    """A broken lock is never half used."""
    with pytest.raises(OperatorError, match="line 1"):
        parse_lock(line)


def test_the_cache_follows_the_environment() -> None:
    """Our own variable first, then the system's, then the home folder."""
    assert cache_folder({"CLICKLEDGER_CACHE": "/c", "XDG_CACHE_HOME": "/x"}) == Path("/c")
    assert cache_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/clickledger")
    assert cache_folder({}) == Path.home() / ".cache" / "clickledger"
