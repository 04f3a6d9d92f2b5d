"""Which lines of a module ran, and which methods of a port are asynchronous: what a sweep must not leave out."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from types import FrameType, ModuleType
from typing import Any


def asynchronous(ports: Iterable[type]) -> set[str]:
    """The names of the coroutine methods of some protocols."""
    return {name for port in ports for name, member in vars(port).items() if inspect.iscoroutinefunction(member)}


def missed_lines(module: ModuleType, owner: type, run: Callable[[], None]) -> set[str]:
    """The lines of a class's methods that `run` does not reach, as `method: text`; without `__init__`."""
    file = str(module.__file__)
    reached: set[int] = set()

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        if frame.f_code.co_filename != file:
            return None
        if event == "line":
            reached.add(frame.f_lineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    source = inspect.getsource(module).splitlines()
    methods = [member for name, member in vars(owner).items() if inspect.isfunction(member) and name != "__init__"]
    return {
        f"{method.__name__}: {source[line - 1].strip()}" for method in methods for line in _lines_of(method) - reached
    }


def _lines_of(function: Any) -> set[int]:
    code = inspect.unwrap(function).__code__
    return {line for _, _, line in code.co_lines() if line is not None and line > code.co_firstlineno}
