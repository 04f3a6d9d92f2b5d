"""The catalog: links, promotions, tenants, keys and streams, in a compacted topic and a local LMDB copy of it.

One follower per folder (a machine, usually) applies the topic to LMDB under a lock; every process of the machine reads
the same memory-mapped file, so a million links cost no process memory and a restart resumes where it stopped. The
*catalog version* is the offset of the last applied record. Records are JSON objects; their bytes are kept as written.

The copy is rebuilt from the topic when the topic turns out to be shorter than what was applied. `is_ready` says that it
was complete once and is not too old; `is_current` that it was level with the topic a moment ago: only then does "no
such link" mean that there is none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.catalog.follower import CatalogFollower
from shared.catalog.reader import Catalog
from shared.catalog.records import PARTITION, Entry, Kind, Match, promotion_key
from shared.catalog.writer import CatalogWriter
from shared.tasks import end

__all__ = [
    "PARTITION",
    "Catalog",
    "CatalogFollower",
    "CatalogWriter",
    "Entry",
    "Kind",
    "Match",
    "followed",
    "promotion_key",
]


@asynccontextmanager
async def followed(catalog: Catalog, follower: CatalogFollower) -> AsyncIterator[Catalog]:
    """Run `follower` in the background for the body, then close `catalog`: for commands that need it for a moment."""
    task = asyncio.ensure_future(follower.run())
    try:
        yield catalog
    finally:
        await end(task)
        catalog.close()
