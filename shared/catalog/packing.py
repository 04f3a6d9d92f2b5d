"""Links as the table of records holds them: compressed, with other links as the dictionary (docs/adr/0042).

Links of one campaign differ in some thirty bytes of three hundred. So a link is kept as the difference to what a few that were
written before have in common: the dictionaries, which stand in the table `meta` and never change while the copy lives. A packed
link is a frame without magic number, then the number of its dictionary in one byte; 0 says that the link stands there as it is.

A link may be deleted because somebody is to be forgotten, and its dictionary stays: so nothing of a single recipient stands in one.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter, deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final, NewType

import lmdb
import orjson
import zstandard

from shared.catalog.store import Store
from shared.stored_links import StoredLink, record_of

log = logging.getLogger(__name__)

PackedLink = NewType("PackedLink", bytes)

DICTIONARIES_MAX: Final = 32
"""Of one copy. Each costs a reader some 130 kB once a link of it is read."""
SAMPLES: Final = 16
"""Links that a dictionary is made of."""
SHARED: Final = 3
"""Links of so many recipients must have a word of a dictionary."""
SAMPLE_BYTES_MAX: Final = 2_048
"""Of each, from its beginning."""
MEASURED: Final = 8
"""Links that tell how well a dictionary does."""
FIRST_LOOK: Final = 64
"""Links after which the dictionaries are looked at first: when there is none, or a follower has begun."""
LOOK_EVERY: Final = 1_024
"""Links after which they are compared with what is written now."""
RECENT_MAX: Final = 256
WORTH: Final = 0.7
"""A new dictionary has to make the links so much smaller."""

_NAMES: Final = b"dictionaries"
"""Key in `meta`: the names of all dictionaries, in the order of their numbers from 1 on."""
_NAME_BYTES: Final = 16
_LEVEL: Final = 3
_LINK_BYTES: Final = 1_024
"""A usual link's, for the compressor's tables."""
_WORDS: Final = re.compile(rb"[0-9A-Za-z\x80-\xff]+|[^0-9A-Za-z\x80-\xff]+")


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
            self._load([_read(txn, store, names[at : at + _NAME_BYTES]) for at in range(0, len(names), _NAME_BYTES)])
            self.names = names

    def _load(self, dictionaries: Sequence[bytes]) -> None:
        unpack: list[Callable[[bytes], bytes]] = [_as_it_is]
        for content in dictionaries:
            decompressor = zstandard.ZstdDecompressor(_dictionary(content), format=zstandard.FORMAT_ZSTD1_MAGICLESS)
            unpack.append(decompressor.decompress)
        self._unpack = unpack

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
        self._recent: deque[StoredLink] = deque(maxlen=RECENT_MAX)
        self._until_look = FIRST_LOOK
        self._random = Random(0)  # noqa: S311  # which links are compared is no secret

    def _load(self, dictionaries: Sequence[bytes]) -> None:
        compressors = [_compressor(content) for content in dictionaries]
        super()._load(dictionaries)
        self._compressors, self._chosen = compressors, len(compressors) - 1
        self._recent.clear()
        self._until_look = FIRST_LOOK

    def pack(self, link: StoredLink) -> PackedLink:
        """The link as it is to be written."""
        if self._chosen >= 0:
            packed = self._compressors[self._chosen].compress(link)
            if len(packed) < len(link):
                return PackedLink(packed + bytes((self._chosen + 1,)))
        return PackedLink(link + b"\0")

    def look_at(self, txn: lmdb.Transaction[bytes], store: Store, links: Sequence[StoredLink]) -> None:
        """See what is about to be written in this transaction; now and then choose the dictionary for it, or make one."""
        self._recent.extend(links)
        self._until_look -= len(links)
        if self._until_look > 0 or len(self._recent) < SAMPLES + MEASURED:
            return
        some = self._random.sample(self._recent, SAMPLES + MEASURED)
        sampled, measured = some[:SAMPLES], some[SAMPLES:]
        sizes = [_size(compressor, measured) for compressor in self._compressors]
        self._chosen = min(range(len(sizes)), key=sizes.__getitem__, default=-1)
        if len(sizes) < DICTIONARIES_MAX:
            size = sum(map(len, measured)) if self._chosen < 0 else sizes[self._chosen]
            content = common_text(sampled)
            if content and _size(_compressor(content), measured) < WORTH * size:
                self._add(txn, store, content)
        self._until_look = LOOK_EVERY

    def _add(self, txn: lmdb.Transaction[bytes], store: Store, content: bytes) -> None:
        name = hashlib.sha256(content).hexdigest()[:_NAME_BYTES].encode()
        txn.put(_key(name), content, db=store.meta)
        txn.put(_NAMES, self.names + name, db=store.meta)
        self.refresh(txn, store)
        if len(self._compressors) == DICTIONARIES_MAX:
            log.warning(
                "catalog: the copy has its last dictionary, the %dth: links unlike all of them take more room",
                DICTIONARIES_MAX,
            )


def common_text(links: Sequence[StoredLink]) -> bytes:
    """What the links have in common, in their own order: the words that links of at least `SHARED` recipients have."""
    texts = [_WORDS.findall(link[:SAMPLE_BYTES_MAX]) for link in links]
    words_of: dict[bytes | int, set[bytes]] = {}
    for number, (link, words) in enumerate(zip(links, texts, strict=True)):
        words_of.setdefault(_recipient(link) or number, set()).update(words)
    having = Counter(word for words in words_of.values() for word in words)
    return b"".join(dict.fromkeys(b"".join([word for word in words if having[word] >= SHARED]) for words in texts))


def _recipient(link: StoredLink) -> bytes:
    """Whose link it is; empty for nobody's."""
    try:
        recipient = orjson.loads(record_of(link)).get("recipient")
    except (orjson.JSONDecodeError, AttributeError):
        return b""
    return recipient.encode() if isinstance(recipient, str) else b""


def _read(txn: lmdb.Transaction[bytes], store: Store, name: bytes) -> bytes:
    content = txn.get(_key(name), db=store.meta)
    assert content is not None, "written in the transaction that names it"
    return content


def _dictionary(content: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(content, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _compressor(content: bytes) -> zstandard.ZstdCompressor:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL,
        source_size=_LINK_BYTES,
        dict_size=len(content),
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_checksum=False,
        write_content_size=True,
    )
    dictionary = _dictionary(content)
    dictionary.precompute_compress(compression_params=parameters)
    return zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters)


def _size(compressor: zstandard.ZstdCompressor, links: Sequence[StoredLink]) -> int:
    return sum(len(compressor.compress(link)) for link in links)
