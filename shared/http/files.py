"""Open files: each connection is one."""

from __future__ import annotations

import logging
import resource
from typing import Final

log = logging.getLogger(__name__)

FILES_BESIDE_CONNECTIONS: Final = 256
"""Brokers, catalog, libraries, health."""


def raise_file_limit(connections_max: int) -> None:
    """Allow this process as many open files as it may have connections; many systems start with 1,024."""
    wanted = connections_max + FILES_BESIDE_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("the limit of %d open files leaves room for fewer than %d connections", allowed, wanted)
