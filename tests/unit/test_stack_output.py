"""The terminal of `clickledger up`."""

from __future__ import annotations

import io
import threading

from clickledger.stack.output import Output, format_line, readable


def test_lines_are_prefixed_and_coloured_on_a_terminal() -> None:
    """The name is padded; colour only where asked for; brokers of a cluster share theirs."""
    assert format_line("api", "hello", colour=False) == "api        | hello"
    assert format_line("broker-2", "x", colour=True) == "\x1b[34mbroker-2   |\x1b[0m x"


def test_log_lines_are_shown_to_people() -> None:
    """Time, level and message of a JSON log line, with its traceback; other lines are left alone."""
    line = '{"time":"2026-01-02T03:04:05.678Z","level":"ERROR","service":"sink","logger":"x","message":"no disk"'
    assert readable(line + "}") == "03:04:05 ERROR no disk"
    assert readable(line + ',"error":"Traceback\\nOSError"}') == "03:04:05 ERROR no disk\nTraceback\nOSError"
    for other in ('{"ready": true}', "{broken", "plain", "{}", '{"time":1,"level":2,"message":3}'):
        assert readable(other) == other


def test_lines_come_in_order() -> None:
    """What was put first is printed first, all of it before `close` returns."""
    stream = io.StringIO()
    output = Output(stream)
    output.say("one")
    output.line("sink", "two")
    output.close()
    assert stream.getvalue() == "one\nsink       | two\n"


class _Stuck(io.StringIO):
    """A terminal that takes nothing until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def write(self, text: str, /) -> int:
        """Block like a pipe that nobody reads."""
        self.go_on.wait()
        return super().write(text)


def test_a_stuck_terminal_does_not_block_and_drops_are_told() -> None:
    """Twenty thousand lines into a stuck terminal: the caller goes on, and the loss is printed."""
    stream = _Stuck()
    output = Output(stream)
    for number in range(20_000):
        output.say(str(number))
    stream.go_on.set()
    output.close()
    printed = stream.getvalue().splitlines()
    assert any("lines were not printed" in line for line in printed)
    assert len(printed) < 20_000
