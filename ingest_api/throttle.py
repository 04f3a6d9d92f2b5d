"""Fixed-window limits that the worker processes of a machine share, without a lock on the hot path.

Every key has a slot, and in each slot every worker has a cell of its own: one 64-bit word, window number and count
together, that only this worker writes. A worker adds to its own cell and reads the sum of all; an aligned word is
written at once, so a reader sees an old or a new count, never a torn one. Two workers that read at the same moment may
both take the last unit: the total exceeds a limit by at most the number of workers (per take).

Which slot a key has is kept in a directory of 16-byte fingerprints beside the cells. It is searched and changed under
a file lock, once per key and process; afterwards a process remembers the slot. Two keys never share a slot: when the
slots a key may have are taken, one that was idle for a minute is given away, which raises the directory's generation
and makes every process look its keys up again; when none is idle the key is counted by each worker alone, with its
share of the limit. So a collision can never lend one key another key's count, and memory is bounded.

Failed authentications are counted in slots chosen by hash alone: addresses are the attacker's choice and must not be
able to fill a directory. Two addresses may then share a count, which at worst turns a 498 into a 429.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from pathlib import Path
from typing import IO, Final, NamedTuple, Self

from shared.errors import OperatorError
from shared.runtime import take_place

COUNT_BITS: Final = 24
COUNT_MAX: Final = (1 << COUNT_BITS) - 1
"""A cell counts up to 16,777,215 per window; the rest of its word is the window's number."""
_WINDOW_MASK: Final = (1 << (64 - COUNT_BITS)) - 1

FINGERPRINT_BYTES: Final = 16
PROBES: Final = 64
"""Slots that a key may have. Spread over the directory: with 80 % of it in use one key in a million has none (0.8^64)."""
IDLE_MS: Final = 60_000
"""A slot whose last count is older than this may be given to another key."""

_WORD: Final = 8


class Cells:
    """`slots` x `workers` words and a directory, in memory that the worker processes of a machine share.

    Word 0 is the directory's generation; then `slots` x `workers` cells; then `slots` fingerprints.
    """

    def __init__(
        self, memory: mmap.mmap | bytearray, *, slots: int, workers: int, worker: int, lock: IO[bytes] | None = None
    ) -> None:
        if not 0 <= worker < workers:
            raise ValueError(f"worker {worker} is not in 0 to {workers - 1}")
        self.slots, self.workers, self.worker = slots, workers, worker
        with memoryview(memory) as whole, whole[: _WORD * (1 + slots * workers)] as head:
            self.words: memoryview[int] = head.cast("Q")
        self._memory = memory
        self._unpack = struct.Struct(f"@{workers}Q").unpack_from  # native words, each read at once
        self._directory_at = _WORD * (1 + slots * workers)
        self._lock = lock

    @staticmethod
    def bytes_needed(slots: int, workers: int) -> int:
        """Bytes of memory for this many slots and workers."""
        return _WORD * (1 + slots * workers) + FINGERPRINT_BYTES * slots

    @classmethod
    def in_memory(cls, *, slots: int, workers: int = 1) -> Self:
        """Cells of this process alone."""
        return cls(bytearray(cls.bytes_needed(slots, workers)), slots=slots, workers=workers, worker=0)

    def of_worker(self, worker: int) -> Cells:
        """The same memory as another worker sees it."""
        return Cells(self._memory, slots=self.slots, workers=self.workers, worker=worker, lock=self._lock)

    def words_of(self, slot: int) -> tuple[int, ...]:
        """A slot's cells, in the order of the workers; a third of the time of reading each by itself."""
        return self._unpack(self._memory, _WORD + slot * _WORD * self.workers)

    @property
    def generation(self) -> int:
        """Raised whenever a slot changes its key."""
        return self.words[0]

    def fingerprint(self, slot: int) -> bytes:
        """The key a slot belongs to; all zero when it is free."""
        at = self._directory_at + slot * FINGERPRINT_BYTES
        return bytes(self._memory[at : at + FINGERPRINT_BYTES])

    def assign(self, slot: int, fingerprint: bytes) -> None:
        """Give a slot to a key and empty its cells; call it under `locked`."""
        at = self._directory_at + slot * FINGERPRINT_BYTES
        if any(self.fingerprint(slot)):
            self.words[0] += 1
        first = 1 + slot * self.workers
        for cell in range(first, first + self.workers):
            self.words[cell] = 0
        self._memory[at : at + FINGERPRINT_BYTES] = fingerprint

    def close(self) -> None:
        """Let go of the shared memory and its file."""
        self.words.release()
        if isinstance(self._memory, mmap.mmap):
            self._memory.close()
        if self._lock is not None:
            self._lock.close()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from changing the directory; held for microseconds."""
        if self._lock is None:
            yield
            return
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)


class WorkerSeat:
    """A worker's number, held by a lock that the kernel drops when the process ends. Claim it after forking."""

    def __init__(self, number: int, lock: IO[bytes]) -> None:
        self.number = number
        self._lock = lock

    @classmethod
    def claim(cls, folder: Path, seats: int) -> Self:
        """The first free one of `seats`. Raises OperatorError when more processes run than there are seats."""
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(seats):
            lock = (folder / f"worker-{number}.lock").open("ab")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            return cls(number, lock)
        raise OperatorError(f"{folder}: all {seats} worker seats are taken; stop other API processes on this folder")

    def release(self) -> None:
        """Give the seat up."""
        self._lock.close()


def open_cells(folder: Path, name: str, *, slots: int, workers: int, worker: int) -> Cells:
    """Cells in a file of `folder`, made when it is not there; open it after forking.

    The shape is a part of the file's name, so processes of another shape never touch it. Raises OperatorError.
    """
    path = folder / f"{name}-v1-{slots}x{workers}.cells"
    size = Cells.bytes_needed(slots, workers)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
        file.truncate(size)  # makes it with zeros, or changes nothing: the size follows from the name
        take_place(file)
    except OSError as exc:
        raise OperatorError(f"{path}: no counters can be kept here: {exc}") from exc
    return Cells(mmap.mmap(file.fileno(), size), slots=slots, workers=workers, worker=worker, lock=file)


class Taken(NamedTuple):
    """What a take gave."""

    granted: int
    remaining: int
    """Units left in this window."""
    reset_s: int
    """Whole seconds until the window ends, at least 1."""

    def each(self, count: int) -> list[Taken]:
        """What so many takes of one unit would have given one after the other, of which this is the sum; at least one."""
        end = self.remaining + self.granted
        takes = [Taken(1, remaining, self.reset_s) for remaining in range(end - 1, self.remaining - 1, -1)]
        return takes + [Taken(0, self.remaining, self.reset_s)] * (count - self.granted)


def reset_s(window_ms: int, now_ms: int) -> int:
    """Whole seconds until the window of `now_ms` ends, rounded up, so at least 1."""
    return -((now_ms % window_ms - window_ms) // 1000)


class Throttle:
    """A fixed window per key over all workers of the machine."""

    def __init__(self, cells: Cells, *, window_ms: int) -> None:
        self.window_ms = window_ms
        self._cells = cells
        self._words = cells.words
        self._workers = cells.workers
        self._worker = cells.worker
        self._slots: dict[str, int] = {}
        self._generation = cells.generation
        self._alone: dict[str, int] = {}
        self._alone_window = 0

    def take(self, key: str, limit: int, cost: int, now_ms: int) -> Taken:
        """Take up to `cost` units of `key`'s `limit` in the window of `now_ms`; 0 only looks."""
        if self._generation != self._words[0]:
            self._slots.clear()
            self._generation = self._words[0]
        slot = self._slots.get(key)
        if slot is None:
            slot = self._find_slot(key, now_ms)
            if slot is None:
                return self._take_alone(key, limit, cost, now_ms)
            self._slots[key] = slot
        window_ms = self.window_ms
        used, granted = take_units(self._cells, slot, limit, cost, now_ms // window_ms)
        left = limit - used if used < limit else 0
        return tuple.__new__(Taken, (granted, left, reset_s(window_ms, now_ms)))  # cheaper than calling the class

    def _find_slot(self, key: str, now_ms: int) -> int | None:
        """The key's slot; a free one or one that was idle when it has none; None when all it may have are busy."""
        fingerprint = hashlib.sha256(key.encode()).digest()[:FINGERPRINT_BYTES]
        cells = self._cells
        start, step = int.from_bytes(fingerprint[:8], "big"), int.from_bytes(fingerprint[8:], "big") | 1
        candidates = [(start + probe * step) % cells.slots for probe in range(min(PROBES, cells.slots))]
        with cells.locked():
            free: int | None = None
            for slot in candidates:
                owner = cells.fingerprint(slot)
                if owner == fingerprint:
                    return slot
                if free is None and (not any(owner) or self._is_idle(slot, now_ms)):
                    free = slot
            if free is not None:
                cells.assign(free, fingerprint)
        return free

    def _is_idle(self, slot: int, now_ms: int) -> bool:
        """Whether nothing was counted lately. A count far in the future is from a clock that was set back since."""
        last = max(self._cells.words_of(slot)) >> COUNT_BITS
        return not now_ms - IDLE_MS <= (last + 1) * self.window_ms <= now_ms + self.window_ms + IDLE_MS

    def _take_alone(self, key: str, limit: int, cost: int, now_ms: int) -> Taken:
        """Count in this process only, against its share: the total then holds, though one worker gets less."""
        window = now_ms // self.window_ms
        if window != self._alone_window:
            self._alone.clear()  # at most one entry per request of a window
            self._alone_window = window
        used = self._alone.get(key, 0)
        share = max(1, limit // self._workers)
        granted = max(0, min(cost, share - used))
        self._alone[key] = used + granted
        return Taken(granted, max(0, share - used - granted), reset_s(self.window_ms, now_ms))


def take_units(cells: Cells, slot: int, limit: int, cost: int, window: int) -> tuple[int, int]:
    """Take up to `cost` units from a slot in a window; (units used by all workers afterwards, units granted).

    A cell that is full grants nothing more, whatever the limit.
    """
    none = (window & _WINDOW_MASK) << COUNT_BITS  # the word of this window in which nothing is counted
    full = none | COUNT_MAX
    words = cells.words_of(slot)
    used = 0
    for word in words:
        if none <= word <= full:
            used += word - none
    word = words[cells.worker]
    if not none <= word <= full:
        word = none
    granted = cost
    if cost > limit - used or cost > full - word:
        granted = min(limit - used, full - word)
    if granted <= 0:
        return used, 0
    cells.words[1 + slot * cells.workers + cells.worker] = word + granted
    return used + granted, granted


class FailureLimiter:
    """Counts failed authentications per client address (IPv6: per /64, which is what one customer has)."""

    def __init__(self, cells: Cells, *, limit: int, window_ms: int) -> None:
        self._cells = cells
        self._limit = limit
        self._window_ms = window_ms

    def allows(self, address: str, now_ms: int) -> bool:
        """Count one failure; False when the address has used up its failures in this window."""
        digest = hashlib.blake2b(failure_group(address), digest_size=8).digest()
        slot = int.from_bytes(digest, "big") % self._cells.slots
        return take_units(self._cells, slot, self._limit, 1, now_ms // self._window_ms)[1] == 1

    def retry_after_s(self, now_ms: int) -> int:
        """Whole seconds, at least 1, until the window of `now_ms` ends."""
        return reset_s(self._window_ms, now_ms)


def failure_group(address: str) -> bytes:
    """What an address is counted as: itself, its /64 when IPv6, the IPv4 one when mapped; other text as it is."""
    try:
        return IPv4Address(address).packed
    except AddressValueError:
        pass
    try:
        v6 = IPv6Address(address)
    except AddressValueError:
        return address.encode(errors="replace")
    return v6.ipv4_mapped.packed if v6.ipv4_mapped else v6.packed[:8]
