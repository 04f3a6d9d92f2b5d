"""The spool is full; or its files are cut, damaged and overwritten on disk while the API is dead."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ingest_api.frames import Damaged, Whole, scan
from tests.torture.faults.base import Fault, Scene
from tests.torture.world import Shape, World

QUOTA_BYTES: Final = 65_536
FLIPS_MAX: Final = 8
STRETCH_BYTES_MAX: Final = 2_048


class SpoolFull(Fault):
    """Kafka is away until the spool's quota is used up: 500 with `Retry-After`, and readiness says why."""

    name = "spool-full"
    rounds = 10
    seconds = 12.0
    shape = Shape(settings=(("CLICKLEDGER_API_SPOOL_BYTES_MAX", str(QUOTA_BYTES)),))

    def inject(self, scene: Scene) -> None:
        """Kill the broker; wait for refusals, and for the reason."""
        scene.world.kill("broker")
        scene.world.wait(lambda: "500" in scene.load.tally.by_code, "a full spool refuses clicks")
        scene.world.wait(lambda: "api" in scene.world.missing(), "the API says that it is not ready")

    def heal(self, scene: Scene) -> None:
        """Start the broker: the spool is emptied, intake goes on."""
        scene.world.start("broker")


class SpoolDamaged(Fault):
    """While Kafka is away, the API dies five times, and each time a random file of each spool is damaged.

    What stood in the damaged frames cannot come back; everything else must, and the damage must be reported.
    """

    name = "spool-damaged"
    rounds = 10
    seconds = 28.0
    deaths = 5
    spooling_s = 0.8

    def __init__(self) -> None:
        self.damaged_pieces = 0

    def prepare(self, scene: Scene) -> None:
        """Nothing is damaged yet."""
        self.damaged_pieces = 0

    def inject(self, scene: Scene) -> None:
        """Ten spools' files: two workers, five deaths."""
        world = scene.world
        world.kill("broker")
        files = 0
        for _ in range(self.deaths):
            world.wait(lambda: bool(list(_segments(world))), "clicks are in the spool")
            world.sleep(scene.rng.uniform(0.2, self.spooling_s))
            world.kill("api")
            for slot in sorted({path.parent for path in _segments(world)}):
                path = scene.rng.choice(sorted(each for each in _segments(world) if each.parent == slot))
                scene.load.forgiven |= damage(path, scene.rng)
                files += 1
            world.start("api")
            world.wait_ready("api")
        self.damaged_pieces = sum(isinstance(piece, Damaged) for path in _segments(world) for piece in _pieces(path))
        scene.notes.append(f"{files} files damaged, {len(scene.load.forgiven)} clicks gone with them")

    def heal(self, scene: Scene) -> None:
        """Start the broker; an operator takes away what was set aside, having read it."""
        world = scene.world
        world.start("broker")
        world.wait(lambda: not list(_segments(world)), "the spools are emptied")
        set_aside = list(_root(world).glob("*/set-aside/*"))
        scene.notes.append(f"{len(set_aside)} pieces set aside")
        if self.damaged_pieces and not set_aside:
            self.damaged_pieces = -1
        for path in set_aside:
            path.unlink()

    def problems(self, scene: Scene) -> list[str]:
        """Damage must not pass in silence."""
        return ["damaged frames were not set aside"] if self.damaged_pieces < 0 else []


def _root(world: World) -> Path:
    return world.data / "api" / "spool"


def _segments(world: World) -> Iterator[Path]:
    return _root(world).glob("*/*.spool")


def _pieces(path: Path) -> Iterator[object]:
    return scan(path.read_bytes())


def _ids(data: bytes) -> set[str]:
    return {piece.click.key.decode() for piece in scan(data) if isinstance(piece, Whole)}


def damage(path: Path, rng: random.Random) -> set[str]:
    """Cut the file, flip or zero some of its bytes, or write garbage behind it; the ids that cannot be read any more."""
    before = path.read_bytes()
    data = bytearray(before)
    match rng.choice(("cut", "flip", "zero", "garbage")):
        case "cut":
            del data[rng.randrange(len(data) + 1) :]
        case "flip":
            for _ in range(rng.randint(1, FLIPS_MAX)):
                data[rng.randrange(len(data))] ^= rng.randint(1, 255)
        case "zero":
            start = rng.randrange(len(data))
            stretch = min(rng.randint(1, STRETCH_BYTES_MAX), len(data) - start)
            data[start : start + stretch] = bytes(stretch)
        case _:
            data += rng.randbytes(rng.randint(1, STRETCH_BYTES_MAX))
    path.write_bytes(data)
    return _ids(before) - _ids(bytes(data))


FAULTS = (SpoolFull(), SpoolDamaged())
