"""The ready file: where a running stack is, with which keys and process ids.

`ready.json` in the data folder is how every other command finds the stack, and the one place that holds plain keys (mode
0600, local use only). It is replaced atomically whenever a process id changes. After a stop it keeps the keys and loses
the process ids.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared import health_files
from shared.errors import TransientError

READY_NAME = "ready.json"
LOCK_NAME = "up.lock"
SEAL_NAME = "seal.key"
"""CLICKLEDGER_SECRET_KEY of a local stack: what it sealed must open after a restart."""

Pids = dict[str, int | list[int]]


class TenantKeys(BaseModel):
    """The plain secrets made for one local tenant."""

    model_config = ConfigDict(frozen=True)

    key: str = Field(description="reports clicks, reads nothing")
    reports_key: str = Field(description="reads reports")
    admin_key: str = Field(description="registers links and promotions")


class Ready(BaseModel):
    """One running stack. Addresses are URLs without a trailing slash."""

    model_config = ConfigDict(frozen=True)

    api: str
    reports: str
    clickhouse: str = Field(description="read-only access, no password: for curl, DBeaver, Grafana")
    database: str
    kafka: str = Field(description="host:port[,host:port…]")
    data: str = Field(description="the data folder, absolute")
    tenant: str
    key: str
    reports_key: str
    admin_key: str
    short_url: str = Field(description="a registered short URL to try")
    pids: Pids
    clickhouse_owner: str = Field(description="CLICKLEDGER_CLICKHOUSE_URL of the owner: may change tables")
    keys: dict[str, TenantKeys] = Field(description="every tenant that this folder's stack made keys for")


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically, mode 0600 from its first byte."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(scratch).replace(path)
    except BaseException:  # whatever it was, Ctrl-C too, leaves no copy of the secrets behind
        Path(scratch).unlink(missing_ok=True)
        raise


def write(ready: Ready, *paths: Path) -> None:
    """Write the object to each path in turn."""
    text = ready.model_dump_json(indent=2) + "\n"
    for path in paths:
        write_private(path, text)


def read(data: Path) -> Ready | None:
    """What the last stack of this folder wrote, running or not; None when there is none or it cannot be read."""
    try:
        return Ready.model_validate_json((data / READY_NAME).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def load(data: Path) -> Ready:
    """Find the running stack of a data folder. Raises TransientError when none runs, or while it starts."""
    if not is_locked(data):
        raise TransientError(f"no stack runs on {data}: start it with 'clickledger up', or name its folder with --data")
    ready = read(data)
    if ready is None or not ready.pids:
        raise TransientError(f"the stack on {data} is still starting: try again in a moment")
    return ready


def secret_key(data: Path) -> str:
    """The folder's CLICKLEDGER_SECRET_KEY, made at the first start. Only the holder of the folder's lock calls this."""
    path = data / SEAL_NAME
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(encoding="ascii").strip()
    made = secrets.token_hex(32)
    write_private(path, made + "\n")
    return made


def data_folder(environ: Mapping[str, str], given: Path | None = None) -> Path:
    """`--data`, else CLICKLEDGER_DATA, else `.clickledger`; absolute."""
    return (given or Path(environ.get("CLICKLEDGER_DATA") or ".clickledger")).absolute()


def is_locked(data: Path) -> bool:
    """Whether a supervisor (or the guard of a dead one) holds the folder."""
    return health_files.is_locked(data / LOCK_NAME)


def lock(data: Path) -> int | None:
    """Take the folder for this process; gives the descriptor that holds it, or None when it is taken.

    The lock belongs to the open file, so a child that inherits the descriptor holds it too.
    """
    data.mkdir(parents=True, exist_ok=True)
    handle = os.open(data / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    os.truncate(handle, 0)
    os.write(handle, f"{os.getpid()}\n".encode())
    return handle


def lock_owner(data: Path) -> int | None:
    """The process id written by the last holder of the lock."""
    try:
        return int((data / LOCK_NAME).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return None
