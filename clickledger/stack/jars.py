"""The broker's jars: resolved by jgo, pinned by SHA-256 sums in a committed lock, kept in a cache.

Rule of this file: a jar is used only after its sum was compared with the lock, on *every* set-up and not only after a
download, because a cache folder can be written by others. The lock holds coordinates and sums, never an address.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clickledger.stack.java_archive import ensure_archive
from shared.errors import ClickledgerError, OperatorError, TransientError

if TYPE_CHECKING:
    from jgo.maven import MavenContext

LOCK_FILE = Path(__file__).with_name("kafka.lock")

# slf4j-simple is the binding for the slf4j-api 1.7 that this Kafka release asks for: without one it logs nothing.
ROOTS = ("org.apache.kafka:kafka_2.13:4.1.0", "org.slf4j:slf4j-simple:1.7.36")

_LOCK_HEADER = """\
# The broker's jars: Maven coordinates and SHA-256 sums. Checked whenever the stack is set up.
# Made by: python -m clickledger.stack.jars --relock
"""
_DOWNLOADS_AT_ONCE = 8
_DOWNLOAD_SECONDS_MAX = 60


class JarMismatch(OperatorError):
    """A jar's bytes are not the ones the lock names: it is never put on the class path."""


@dataclass(frozen=True, slots=True, order=True)
class Jar:
    """One line of the lock."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The name in the flat cache folder; the sum in it lets several releases lie side by side."""
        return f"{self.artifact}-{self.version}-{self.sha256[:12]}.jar"

    @property
    def coordinate(self) -> str:
        """Maven's `group:artifact:version`."""
        return f"{self.group}:{self.artifact}:{self.version}"


def parse_lock(text: str) -> tuple[Jar, ...]:
    """Read a lock: `group:artifact:version sha256` per line; raises OperatorError at a line of another shape."""
    return tuple(
        _parse_line(number, line)
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.startswith("#")
    )


def _parse_line(number: int, line: str) -> Jar:
    coordinate, _, digest = line.partition(" ")
    parts = coordinate.split(":")
    if len(parts) != 3 or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise OperatorError(f"kafka.lock line {number} is not 'group:artifact:version sha256'")
    group, artifact, version = parts
    return Jar(group, artifact, version, digest)


def format_lock(jars: Sequence[Jar]) -> str:
    """Write a lock, sorted, so that two runs give the same bytes."""
    return _LOCK_HEADER + "".join(f"{jar.coordinate} {jar.sha256}\n" for jar in sorted(jars))


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where jars are kept between set-ups and checkouts: the user's cache folder, or CLICKLEDGER_CACHE."""
    if own := environ.get("CLICKLEDGER_CACHE"):
        return Path(own)
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "clickledger"


def ensure_jars(folder: Path, *, say: Callable[[str], None], lock: Path = LOCK_FILE) -> tuple[Path, ...]:
    """Give the class path, downloading what is missing; every file was compared with the lock just now.

    Raises JarMismatch when bytes differ (cached or fresh) and TransientError when something cannot be downloaded.
    """
    jars = parse_lock(lock.read_text(encoding="utf-8"))
    folder = folder / "jars"
    folder.mkdir(parents=True, exist_ok=True)
    missing = [jar for jar in jars if not (folder / jar.file_name).exists()]
    if missing:
        say(f"downloading {len(missing)} jars of Apache Kafka into {folder} (once)")
        _download_all(missing, folder)
    for jar in jars:
        _check(jar, folder / jar.file_name)
    return tuple(folder / jar.file_name for jar in jars)


def _check(jar: Jar, path: Path) -> None:
    found = sha256_of(path)
    if found != jar.sha256:
        raise JarMismatch(
            f"{path} has SHA-256 {found} but the lock says {jar.sha256} for {jar.coordinate}: "
            "delete the file and run the set-up again"
        )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download_all(jars: Sequence[Jar], folder: Path) -> None:
    """Download into a scratch folder, compare, then move: an interrupted set-up leaves no half file in the cache."""
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
        context = _maven_context(Path(scratch))

        def fetch(jar: Jar) -> None:
            path = _resolve(context, jar.group, jar.artifact, jar.version)
            _check(jar, path)
            path.replace(folder / jar.file_name)

        with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
            list(pool.map(fetch, jars))


def _maven_context(repo_cache: Path) -> MavenContext:
    from jgo.maven import MavenContext  # imported late: only a set-up with missing jars needs it

    return MavenContext(repo_cache=repo_cache, timeout=_DOWNLOAD_SECONDS_MAX)


def _resolve(context: MavenContext, group: str, artifact: str, version: str) -> Path:
    import requests  # jgo's own HTTP client, whose errors it lets through

    try:
        return context.project(group, artifact).at_version(version).artifact().resolve()
    except (requests.RequestException, RuntimeError) as exc:
        raise TransientError(
            f"cannot download {group}:{artifact}:{version}: check the network, then run it again ({exc})"
        ) from exc


def resolve_lock(scratch: Path) -> tuple[Jar, ...]:
    """Resolve ROOTS and everything they need, download it, and give the lock's lines. For maintainers."""
    from jgo.parse import Endpoint

    context = _maven_context(scratch)
    coordinates = [Endpoint.parse(root).coordinates[0] for root in ROOTS]
    inputs, transitive = context.resolver.resolve([context.create_dependency(coordinate) for coordinate in coordinates])
    jars = []
    for dependency in [*inputs, *(item for item in transitive if item.scope in ("compile", "runtime"))]:
        path = _resolve(context, dependency.groupId, dependency.artifactId, dependency.version)
        jars.append(Jar(dependency.groupId, dependency.artifactId, dependency.version, sha256_of(path)))
    return tuple(sorted(jars))


def _relock() -> None:
    """Write the committed lock anew from ROOTS."""
    with tempfile.TemporaryDirectory(prefix="clickledger-lock-") as scratch:
        LOCK_FILE.write_text(format_lock(resolve_lock(Path(scratch))), encoding="utf-8")
    _say(f"wrote {LOCK_FILE}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _main(arguments: Sequence[str]) -> int:
    """Set-up: have every jar, checked, and the archive of their classes. `--relock`, for maintainers: write the lock anew."""
    try:
        if list(arguments) == ["--relock"]:
            _relock()
        else:
            ensure_archive(ensure_jars(cache_folder(os.environ), say=_say), say=_say)
    except ClickledgerError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
