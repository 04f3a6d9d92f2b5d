"""Links as the table of records holds them: compressed, with other links as the dictionary (docs/adr/0042).

Links of one campaign differ in some thirty bytes of three hundred. So a link is kept as the difference to a few that were
written before: the dictionaries, which stand in the table `meta` and never change while the copy lives. A packed link is a
frame without magic number, then the number of its dictionary in one byte; 0 says that the link stands there as it is.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NewType

import lmdb
import zstandard

from shared.catalog.store import Store
from shared.stored_links import StoredLink

PackedLink = NewType("PackedLink", bytes)

DICTIONARIES_MAX: Final = 32
"""Of one copy. Each costs a reader some 130 kB once a link of it is read."""
SAMPLES: Final = 16
"""Links in a dictionary."""
SAMPLE_BYTES_MAX: Final = 1_024
"""Longer links are not taken for a dictionary."""
FIRST_LOOK: Final = 64
"""Links after which the first dictionary is made; those before it stay as they are."""
LOOK_EVERY: Final = 1_024
"""Links after which the dictionaries are compared with what is written now."""
MEASURED: Final = 8
"""Links that tell how well a dictionary does."""
WORTH: Final = 0.7
"""A new dictionary has to make the links so much smaller."""

_NAMES: Final = b"dictionaries"
"""Key in `meta`: the names of all dictionaries, in the order of their numbers from 1 on."""
_NAME_BYTES: Final = 16
_LEVEL: Final = 3


def _key(name: bytes) -> bytes:
    return b"dictionary." + name


def _as_it_is(packed: bytes) -> bytes:
    return packed[:-1]


class Unpacker:
    """Gives links back as they were. For one thread."""

    def __init__(self) -> None:
        self.names = b""
        self._unpack: list[Callable[[bytes], bytes]] = [_as_it_is]

    def refresh(self, txn: lmdb.Transaction[bytes], store: Store) -> None:
        """Know the dictionaries of this snapshot: to be called for each before a link of it is unpacked."""
        names = txn.get(_NAMES, db=store.meta) or b""
        if names != self.names:
            self.names = names
            self._load([_read(txn, store, names[at : at + _NAME_BYTES]) for at in range(0, len(names), _NAME_BYTES)])

    def _load(self, dictionaries: Iterable[bytes]) -> None:
        self._unpack = [_as_it_is]
        for content in dictionaries:
            decompressor = zstandard.ZstdDecompressor(_dictionary(content), format=zstandard.FORMAT_ZSTD1_MAGICLESS)
            self._unpack.append(decompressor.decompress)

    def unpack(self, packed: PackedLink) -> StoredLink:
        """The link."""
        return StoredLink(self._unpack[packed[-1]](packed))

    def unpack_all(self, packed: Sequence[PackedLink]) -> list[StoredLink]:
        """The same for many."""
        unpack = self._unpack
        links: list[Any] = [unpack[link[-1]](link) for link in packed]
        return links


class Packer(Unpacker):
    """Writes links; chooses the dictionary, and makes one when what is written now is unlike all of them."""

    def __init__(self) -> None:
        super().__init__()
        self._compressors: list[zstandard.ZstdCompressor] = []
        self._chosen = -1
        self._recent: deque[StoredLink] = deque(maxlen=LOOK_EVERY)
        self._until_look = FIRST_LOOK

    def _load(self, dictionaries: Iterable[bytes]) -> None:
        dictionaries = list(dictionaries)
        super()._load(dictionaries)
        self._compressors = [_compressor(content) for content in dictionaries]
        self._chosen = len(dictionaries) - 1
        self._recent.clear()
        self._until_look = LOOK_EVERY if dictionaries else FIRST_LOOK

    def pack(self, link: StoredLink) -> PackedLink:
        """The link as it is to be written."""
        if self._chosen >= 0:
            packed = self._compressors[self._chosen].compress(link)
            if len(packed) < len(link):
                return PackedLink(packed + bytes((self._chosen + 1,)))
        return PackedLink(link + b"\0")

    def look_at(self, txn: lmdb.Transaction[bytes], store: Store, links: Sequence[StoredLink]) -> None:
        """See what is about to be written in this transaction; now and then choose the dictionary for it, or make one."""
        self._recent.extend(link for link in links if len(link) <= SAMPLE_BYTES_MAX)
        self._until_look -= len(links)
        if self._until_look > 0 or len(self._recent) < 2 * SAMPLES:
            return
        self._until_look = LOOK_EVERY
        recent = list(self._recent)
        sampled, measured = _some(recent[::2], SAMPLES), _some(recent[1::2], MEASURED)
        sizes = [_size(compressor, measured) for compressor in self._compressors]
        self._chosen = min(range(len(sizes)), key=sizes.__getitem__, default=-1)
        if len(sizes) >= DICTIONARIES_MAX:
            return
        content = b"".join(sampled)
        size = sum(map(len, measured)) if self._chosen < 0 else sizes[self._chosen]
        if _size(_compressor(content), measured) < WORTH * size:
            name = hashlib.sha256(content).hexdigest()[:_NAME_BYTES].encode()
            txn.put(_key(name), content, db=store.meta)
            txn.put(_NAMES, self.names + name, db=store.meta)
            self.refresh(txn, store)


def _read(txn: lmdb.Transaction[bytes], store: Store, name: bytes) -> bytes:
    content = txn.get(_key(name), db=store.meta)
    assert content is not None, "written in the transaction that names it"
    return content


def _dictionary(content: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(content, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _compressor(content: bytes) -> zstandard.ZstdCompressor:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL,
        source_size=SAMPLE_BYTES_MAX,
        dict_size=len(content),
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_checksum=False,
        write_dict_id=False,
        write_content_size=True,
    )
    dictionary = _dictionary(content)
    dictionary.precompute_compress(compression_params=parameters)
    return zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters)


def _some(links: Sequence[StoredLink], count: int) -> Sequence[StoredLink]:
    """So many of them, from all over."""
    return links[:: max(1, len(links) // count)][:count]


def _size(compressor: zstandard.ZstdCompressor, links: Sequence[StoredLink]) -> int:
    return sum(len(compressor.compress(link)) for link in links)
