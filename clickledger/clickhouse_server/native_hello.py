"""The first question of ClickHouse's Go driver over HTTP (Grafana's), answered so that it then reads plain Native. Pure.

The driver sends ``client_protocol_version`` and expects Native blocks as the native protocol of that revision frames them.
The engine in process writes only the plain form, which is that of revision 0. The driver takes the revision from its
first query, so that query alone is answered by hand, in the framing it expects, and says: revision 0. Seen with
clickhouse-go 2.50; older versions send no revision and read plain Native anyway.
"""

import struct
from typing import Final

from clickledger.clickhouse_server.tokens import tokens

_QUESTION: Final = [token.text for token in tokens(b"SELECT displayName(), version(), revision(), timezone()")]
_CUSTOM_SERIALIZATION: Final = 54454  # DBMS_MIN_REVISION_WITH_CUSTOM_SERIALIZATION: a flag byte per column since then
_BLOCK_INFO: Final = b"\x01\x00\x02" + struct.pack("<i", -1) + b"\x00"  # not overflows, bucket -1, end


def is_hello(text: bytes) -> bool:
    """Whether `text` is the driver's first question."""
    return [token.text for token in tokens(text)] == _QUESTION


def hello_block(host: str, version: str, timezone: str, revision: int) -> bytes:
    """The answer: one Native block in the framing of `revision` (above 0), one row, whose revision is 0."""
    columns = (
        ("displayName()", "String", _string(host)),
        ("version()", "String", _string(version)),
        ("revision()", "UInt32", struct.pack("<I", 0)),
        ("timezone()", "String", _string(timezone)),
    )
    flag = b"\x00" if revision >= _CUSTOM_SERIALIZATION else b""
    body = b"".join(_string(name) + _string(kind) + flag + value for name, kind, value in columns)
    return b"".join((_BLOCK_INFO, bytes((len(columns), 1)), body))


def _string(text: str) -> bytes:
    """A string of fewer than 128 bytes with its length."""
    encoded = text.encode()[:127]
    return bytes((len(encoded),)) + encoded
