"""Real loops driven one step at a time: every call of a port is suspended before its effect, and again before its answer.

The loop under test runs unchanged. A test decides at each point whether the operation takes effect, whether its answer
arrives, or whether the process dies there, is overtaken, or sleeps.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from shared.errors import ClickledgerError, NotOwned, OperatorError, OutcomeUnknown, TransientError

T = TypeVar("T")

IDLE = "idle"


@dataclass
class Op(Generic[T]):
    """One operation of a port: what it does when it takes effect, and what it is called."""

    name: str
    effect: Callable[[], T]

    def __await__(self) -> Generator[Op[T], T, T]:
        return (yield self)


class Stepped:
    """A loop that lives until it ends, loses its partition, or is crashed."""

    LOCAL: ClassVar[frozenset[str]] = frozenset({"pause", "read", "take_turn", IDLE})
    """Operations that ask nobody, so they cannot fail."""

    def __init__(self, run: Coroutine[Op[Any], Any, None]) -> None:
        self._run = run
        self.pending: Op[Any] | None = self._next(None, None)
        self._answer: tuple[Any, Exception | None] | None = None

    @property
    def is_answered(self) -> bool:
        """Whether the pending operation took effect (or failed) and its answer is under way."""
        return self._answer is not None

    def step(self, fault: str = "none") -> None:
        """Let the pending operation take effect, or deliver its answer.

        `fault`: `before` fails it without effect, `refused` too, until a human acts; `after` loses an effect's answer.
        """
        if self.pending is None:
            return
        if self._answer is None:
            self._answer = self._take_effect(self.pending, fault)
            return
        (result, error), self._answer = self._answer, None
        try:
            self.pending = self._next(result, error)
        except (NotOwned, StopIteration):
            self.pending = None

    def _next(self, result: Any, error: Exception | None) -> Op[Any]:
        """The next operation; a bare yield to the event loop is none."""
        found: Op[Any] | None = self._run.send(result) if error is None else self._run.throw(error)
        while found is None:
            found = self._run.send(None)
        return found

    def go_to(self, name: str, *, answered: bool) -> None:
        """Step at least once, and on until the next operation of this name: before its effect, or with its answer under way."""
        for _ in range(300):
            self.step()
            if self.pending is None:
                return
            if self.pending.name == name and self.is_answered == answered:
                return

    def _take_effect(self, op: Op[Any], fault: str) -> tuple[Any, Exception | None]:
        can_fail = op.name not in self.LOCAL
        if fault == "before" and can_fail:
            return None, TransientError("injected")
        if fault == "refused" and can_fail:
            return None, OperatorError("injected")
        try:
            result = op.effect()
        except ClickledgerError as exc:
            return None, exc
        return (None, OutcomeUnknown("injected")) if fault == "after" and can_fail else (result, None)

    def lose_answer(self) -> None:
        """The connection breaks: an answer on its way is lost."""
        self._answer = None, OutcomeUnknown("connection lost")

    def crash(self) -> None:
        """End at once."""
        self._run.close()
        self.pending = None
