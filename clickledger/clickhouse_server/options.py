"""What the process is told: arguments for places and limits, environment for passwords."""

from dataclasses import dataclass, field
from pathlib import Path

from shared.settings import CatalogSettings


@dataclass(frozen=True, slots=True)
class Options:
    """All settings of the server."""

    path: Path
    """Data folder; one process at a time."""
    database: str
    """The project's database: made at the start, the default of every session, the only one a reader sees."""
    host: str = "127.0.0.1"
    port: int = 8123
    """0 picks a free port."""
    password: str = ""
    """Of the user `default`; empty = none is asked for."""
    sink_password: str = ""
    """Of the user `sink`, which may do what the sink does; empty = there is no such user."""
    reporting_password: str = ""
    """Of the user `reporting`, which reads; empty = there is no such user."""
    reader_password: str = ""
    """Of the user `reader`; empty = there is no such user."""
    anonymous_reader: bool = False
    """Whether a request without a password, addressed to this machine by name or loopback address, is `reader`'s."""
    catalog: Path | None = None
    """Folder of the machine's copy of the catalog: a tenant's id with the secret of a key with the grant `reports` reads
    that tenant's rows. None: no tenant has access."""
    catalog_settings: CatalogSettings = field(default_factory=CatalogSettings)
    owner_statements: int = 8
    """Statements of `default` and the services that run at a time: two inserts of the sink, its questions, reports, a few more."""
    reader_statements: int = 4
    """Statements of `reader` that run at a time, and as many of all tenants together, half of them of one tenant."""
    waiting_statements: int = 64
    """Per role, beyond those that run, half of them for one tenant; further ones are answered 503 with code 202."""
    idle_seconds: float = 30.0
    """A client that neither sends nor takes bytes for so long loses its statement (http_receive_timeout of the server)."""
    stop_seconds: float = 10.0
    """How long a stop waits for running statements."""
