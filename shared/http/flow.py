"""When a connection's socket is read: not while earlier requests wait for room, nor while what was read is not parsed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from uvicorn.protocols.http.flow_control import FlowControl

if TYPE_CHECKING:
    from shared.http.connection import Connection


class Flow(FlowControl):
    """Flow control that reads on where it stopped: first what was read and not parsed yet, then the socket."""

    def __init__(self, connection: Connection, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._connection = connection
        self.is_held = False
        """Somebody asked for no more requests, and nobody has asked for more since."""

    def may_parse(self) -> bool:
        """Whether more requests may come."""
        return not self.is_held

    def pause_reading(self) -> None:
        """No more requests for now."""
        self.is_held = True
        super().pause_reading()

    def pause_socket(self) -> None:
        """Read nothing more from the socket until what was read is parsed."""
        super().pause_reading()

    def resume_reading(self) -> None:
        """More requests may come."""
        self.is_held = False
        if self._connection.rest:
            self._connection.read_rest_soon()
        else:
            super().resume_reading()
