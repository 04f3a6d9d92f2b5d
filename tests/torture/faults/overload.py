"""Clients that behave badly, all at once, beside those that behave well."""

from __future__ import annotations

from tests.support.crowd import Crowd, raise_own_file_limit, resident_mib
from tests.torture.faults.base import Fault, Scene
from tests.torture.world import Shape

SILENT = 10_000
HALF_SENT = 60
SLOW = 60
GREEDY = 20
CROWDED_S = 8.0
GROWTH_MIB_MAX = 300
"""Of one API process: bounds of held and of unread bytes, 64 MiB each, and 10 KiB for each of 10,000 connections."""


class BadCrowd(Fault):
    """Ten thousand silent connections, half-sent and dripping requests, and clients that never read an answer."""

    name = "bad-crowd"
    rounds = 3
    seconds = 25.0
    shape = Shape()

    def __init__(self) -> None:
        self._crowd: Crowd | None = None
        self._problems: list[str] = []

    def inject(self, scene: Scene) -> None:
        """All come, and stay for a while."""
        raise_own_file_limit()
        before = {pid: resident_mib(pid) for pid in scene.world.workers()}
        crowd = self._crowd = Crowd(scene.world.api_port)
        head = f"POST /v1/clicks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {scene.world.key}\r\n"
        half = f"{head}content-length: 1048576\r\n\r\n".encode() + b" " * (1 << 19)
        crowd.add_silent(SILENT)
        crowd.add_half_sent(half, HALF_SENT)
        crowd.add_slow(half[:2_000], SLOW)
        crowd.add_greedy(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n" * 2_000, GREEDY)
        scene.world.sleep(CROWDED_S)
        after = {pid: resident_mib(pid) for pid in scene.world.workers() if pid in before}
        scene.notes.append(f"MiB {before} -> {after}")
        grown = {pid: after[pid] - before[pid] for pid in after}
        self._problems = [f"{pid} has grown by {mib} MiB" for pid, mib in grown.items() if mib > GROWTH_MIB_MAX]

    def heal(self, scene: Scene) -> None:
        """All leave."""
        self._leave()

    def problems(self, scene: Scene) -> list[str]:
        """Memory, an attempt that was not answered 200, and a process that ended: nothing of these is expected."""
        died = [] if scene.world.deaths == 0 else [f"{scene.world.deaths} services ended by themselves"]
        return [*self._problems, *died]

    def tidy(self, scene: Scene) -> None:
        """Also when the round broke off."""
        self._leave()

    def _leave(self) -> None:
        crowd, self._crowd = self._crowd, None
        if crowd is not None:
            crowd.close()


FAULTS = (BadCrowd(),)
