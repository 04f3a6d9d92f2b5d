"""The ready file and the lock of a data folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from clickledger.stack import ready
from clickledger.stack.ready import Ready, TenantKeys
from shared.errors import TransientError

KEYS = TenantKeys(key="k", reports_key="r", admin_key="a")

# What scripts rely on, in the order in which it is written.
PUBLIC = [
    *("api", "reports", "clickhouse", "database", "kafka", "data"),
    *("tenant", "key", "reports_key", "admin_key", "short_url", "pids"),
]


def make(data: Path, pids: ready.Pids) -> Ready:
    """A complete object."""
    return Ready(
        api="http://127.0.0.1:1",
        reports="http://127.0.0.1:2",
        clickhouse="http://127.0.0.1:3",
        database="d",
        kafka="127.0.0.1:4",
        data=str(data),
        tenant="default",
        key="k",
        reports_key="r",
        admin_key="a",
        short_url="http://s/x",
        pids=pids,
        clickhouse_owner="http://default:p@127.0.0.1:3/d",
        keys={"default": KEYS},
    )


def test_it_holds_the_published_fields_and_is_private(tmp_path: Path) -> None:
    """One JSON object, mode 0600, at every path given."""
    paths = [tmp_path / "sub" / "ready.json", tmp_path / "other.json"]
    ready.write(make(tmp_path, {"api": 1, "broker": [2, 3]}), *paths)
    for path in paths:
        assert path.stat().st_mode & 0o777 == 0o600
        found = json.loads(path.read_text())
        assert list(found)[: len(PUBLIC)] == PUBLIC
        assert found["pids"] == {"api": 1, "broker": [2, 3]}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["other.json", "sub"]


def test_it_is_replaced_not_rewritten(tmp_path: Path) -> None:
    """A reader that has the file open keeps a whole old object."""
    path = tmp_path / "ready.json"
    ready.write(make(tmp_path, {"api": 1}), path)
    with path.open() as reader:
        ready.write(make(tmp_path, {"api": 2}), path)
        assert json.load(reader)["pids"] == {"api": 1}
    assert json.loads(path.read_text())["pids"] == {"api": 2}


def test_a_running_stack_is_found(tmp_path: Path) -> None:
    """Locked folder and process ids: the object."""
    handle = ready.lock(tmp_path)
    assert handle is not None
    stack = make(tmp_path, {"api": 1})
    ready.write(stack, tmp_path / ready.READY_NAME)
    assert ready.load(tmp_path) == stack
    os.close(handle)


def test_a_stack_that_starts_is_not_ready_yet(tmp_path: Path) -> None:
    """Locked folder without process ids: try again."""
    handle = ready.lock(tmp_path)
    assert handle is not None
    with pytest.raises(TransientError, match="still starting"):
        ready.load(tmp_path)
    os.close(handle)


def test_a_dead_stack_is_not_found(tmp_path: Path) -> None:
    """A ready file that a killed supervisor left behind does not count."""
    ready.write(make(tmp_path, {"api": 1}), tmp_path / ready.READY_NAME)
    with pytest.raises(TransientError, match="no stack runs on"):
        ready.load(tmp_path)


def test_a_folder_is_taken_once(tmp_path: Path) -> None:
    """The second taker gets nothing, and learns who has it."""
    handle = ready.lock(tmp_path)
    assert handle is not None
    assert ready.lock(tmp_path) is None
    assert ready.lock_owner(tmp_path) == os.getpid()
    os.close(handle)
    assert not ready.is_locked(tmp_path)


def test_an_unreadable_ready_file_counts_as_none(tmp_path: Path) -> None:
    """Of another release, or broken: made anew."""
    (tmp_path / ready.READY_NAME).write_text("{}")
    assert ready.read(tmp_path) is None


def test_the_data_folder_is_chosen_in_order(tmp_path: Path) -> None:
    """`--data`, then the environment, then `.clickledger` here; an empty variable counts as unset."""
    assert ready.data_folder({"CLICKLEDGER_DATA": "/e"}, tmp_path) == tmp_path
    assert ready.data_folder({"CLICKLEDGER_DATA": "/e"}) == Path("/e")
    assert ready.data_folder({"CLICKLEDGER_DATA": ""}) == Path.cwd() / ".clickledger"
