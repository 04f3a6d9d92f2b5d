"""The reading end of the pipe through which the engine's result leaves a worker thread."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from typing import Final

CHUNK_BYTES: Final = 1 << 20  # also the pipe's size: the most an unprivileged process may ask Linux for


class ResultPipe:
    """One pipe per statement: the engine writes to `writing_end`, the event loop reads chunks."""

    def __init__(self) -> None:
        self._reading_end, self.writing_end = os.pipe()
        os.set_blocking(self._reading_end, False)  # the standard library's signature
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            self._grow()
        self._is_written = False
        self._is_read = False

    def _grow(self) -> None:
        try:
            fcntl.fcntl(self.writing_end, fcntl.F_SETPIPE_SZ, CHUNK_BYTES)
        except OSError:
            return  # the user's pipe quota is used up: a small pipe is only slower

    def end(self) -> None:
        """The engine has written all: the reader gets the end of file after what is in the pipe. Idempotent."""
        if not self._is_written:
            self._is_written = True
            os.close(self.writing_end)

    def close(self) -> None:
        """Close the reading end; whatever the engine still writes fails. Idempotent."""
        if not self._is_read:
            self._is_read = True
            os.close(self._reading_end)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Chunks of at most CHUNK_BYTES until the end."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                chunk = os.read(self._reading_end, CHUNK_BYTES)
            except BlockingIOError:
                await self._readable(loop)
                continue
            if not chunk:
                return
            yield chunk

    async def _readable(self, loop: asyncio.AbstractEventLoop) -> None:
        ready = loop.create_future()
        loop.add_reader(self._reading_end, _settle, ready)
        try:
            await ready
        finally:
            loop.remove_reader(self._reading_end)


def _settle(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)
