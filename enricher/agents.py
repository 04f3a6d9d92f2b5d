"""User agent in, finished answer out: browser, system, device, kind of device, resolution, bot. No I/O.

Rules: parse at most 1,024 bytes; remember the *finished* answers, as the JSON that goes into the row, since few agents
make up most clicks; a missing or unknown dimension is the empty string (reports call it Others); an unknown agent is
not a bot.
"""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, NamedTuple

from ua_parser.loaders import load_lazy_builtins
from ua_parser.regex import Resolver
from user_agents.parsers import Browser, OperatingSystem, parse_device
from user_agents.parsers import UserAgent as DeviceLogic

from enricher.bot_rules import BotRules, load_bot_rules
from enricher.remembered import Remembered
from enricher.texts import bounded, following, text_of

if TYPE_CHECKING:
    from ua_parser_rs import OS, Device, UserAgent  # the stubs have these names, the module has not

AGENT_BYTES_PARSED_MAX: Final = 1024
"""contract.md: parsed up to 1,024 bytes; regular expressions see no more than this."""
AGENT_BYTES_STORED_MAX: Final = 2048
"""contract.md: stored up to 2,048 bytes."""
AGENTS_CACHED_MAX: Final = 50_000
AGENTS_CACHED_BYTES_MAX: Final = 64 << 20
"""Finished answers kept; a usual one takes 900 bytes with its agent, so that the number is what bounds them."""
DIMENSION_BYTES_MAX: Final = 200
"""Families and versions are copied out of the agent by regular expressions: bound what they can copy. uap-core's longest is 170."""

NOT_GIVEN: Final = frozenset({"", "-", "null", "undefined", "unknown"})
"""What apps send when they have no user agent (contract.md), in lower case."""


class Agent(NamedTuple):
    """What the agent says. Every string is '' when the agent does not say it."""

    browser: str = ""
    browser_version: str = ""
    os: str = ""
    os_version: str = ""
    device: str = ""
    device_brand: str = ""
    device_type: str = ""
    """phone, tablet, pc, bot, other; '' without an agent."""
    resolution: str = ""
    """WIDTHxHEIGHT in the order the agent prints them."""
    is_bot: bool = False
    bot_reason: str = ""


_COLUMNS: Final = ("user_agent", *Agent._fields)


def columns_of(given: str, agent: Agent) -> bytes:
    """The columns from `user_agent` to `bot_reason`: see `following`."""
    return following(dict(zip(_COLUMNS, (given, *agent), strict=True)))


NO_AGENT_COLUMNS: Final = columns_of("", Agent())

_PAIR = r"(\d{3,4})[xX*](\d{3,4})"
# The pair stands alone between separators, so that neither builds (ref1024.2012), hex numbers nor model names match.
_RESOLUTION: Final = re.compile(r"(?:^|[\s;,(/:])" + _PAIR + r"(?=$|[\s;,)\]/-])")
_FACEBOOK_DISPLAY: Final = re.compile(r"FBDM/\{[^}]*\bwidth=(\d{3,4}),height=(\d{3,4})")
_BAIDU_REVERSED: Final = re.compile(r"baidub(?:oxapp|rowser)/\S*?_diordna_(\d{3,4})_(\d{3,4})")
PIXELS_MIN: Final = 100
PIXELS_MAX: Final = 8192
"""Screens are between 101 pixels (old phones' width) and 8K; other pairs are something else."""

_PAIR_BEGINS: Final = re.compile(r"[xX*](?=\d{3})")
"""What every pair has inside; far cheaper to look for than a pair."""

_NO_DEVICE: Final = parse_device("Other", None, None)

_TV: Final = re.compile(r"\b(?:TV|SmartTV|GoogleTV|BRAVIA|AFT[A-Z]+|CrKey|Roku|Web0S)\b")
_TV_PARTS: Final = ("TV", "BRAVIA", "AFT", "CrKey", "Roku", "Web0S")
"""One of them stands in whatever `_TV` finds; far cheaper to look for."""


def given_agent(text: str | None) -> str:
    """The agent as it is stored: trimmed, at most 2,048 bytes; '' when none was given."""
    if text is None:
        return ""
    trimmed = text.strip()
    if len(trimmed) <= 9 and trimmed.lower() in NOT_GIVEN:  # 9: the longest of them
        return ""
    return bounded(trimmed, AGENT_BYTES_STORED_MAX)


def resolution_of(agent: str) -> str:
    """`WIDTHxHEIGHT` when the agent prints it, else ''.

    Known: Instagram, Opera Mini on BREW, UC Browser, Windows CE and others (`720x1280`, `480*800`), Facebook's
    `FBDM/{…width=480,height=800}`, and Baidu's, which prints all its fields backwards (`diordna_008_084`).
    """
    if "FBDM/{" in agent and (match := _FACEBOOK_DISPLAY.search(agent)) is not None:
        return _screen(match[1], match[2])
    if "_diordna_" in agent and (match := _BAIDU_REVERSED.search(agent)) is not None:
        return _screen(match[2][::-1], match[1][::-1])
    if _PAIR_BEGINS.search(agent) is None:
        return ""
    for match in _RESOLUTION.finditer(agent):
        if screen := _screen(match[1], match[2]):
            return screen
    return ""


def _screen(width: str, height: str) -> str:
    if PIXELS_MIN <= int(width) <= PIXELS_MAX and PIXELS_MIN <= int(height) <= PIXELS_MAX:
        return f"{int(width)}x{int(height)}"
    return ""


class AgentParser:
    """Parses agents with uap-core's rules, user-agents' device logic and our bot rules; remembers the answers."""

    def __init__(self, resolver: Resolver, bot_rules: BotRules) -> None:
        self._browser, self._system, self._device = resolver.ua.extract, resolver.os.extract, resolver.de.extract
        self._bot_rules = bot_rules
        self.remembered = Remembered(AGENTS_CACHED_MAX, AGENTS_CACHED_BYTES_MAX)
        self.agent_rules = f"uap-{version('ua-parser-builtins')}"
        self.bot_rules = bot_rules.version

    def columns(self, text: str | None) -> bytes:
        """The columns of an agent as it was sent (`columns_of`); empty when it is none. Never raises."""
        if text is None:
            return b""
        columns = self.remembered.get(text)
        if columns is None:
            given = given_agent(text)
            columns = columns_of(given, self.parse(given)) if given else b""
            self.remembered.put(text, columns)
        return columns

    def parse(self, given: str) -> Agent:
        """The answer for an agent of `given_agent`, worked out. Never raises."""
        agent = bounded(given, AGENT_BYTES_PARSED_MAX)
        browser, system, device = self._browser(agent), self._system(agent), self._device(agent)
        logic = _device_logic(agent, browser, system, device)
        bot_reason = self._bot_rules.reason(agent, is_spider=bool(logic.is_bot))
        return Agent(
            browser=_family(browser.family if browser else None),
            browser_version=_version(browser),
            os=_family(system.family if system else None),
            os_version=_version(system),
            device=_family(device.family if device else None),
            device_brand=_family(device.brand if device else None),
            device_type="bot" if bot_reason else _device_type(agent, logic),
            resolution=resolution_of(agent),
            is_bot=bot_reason != "",
            bot_reason=bot_reason,
        )


def load_agent_parser() -> AgentParser:
    """A parser with the installed rules; takes about 0.2 s. The Rust resolver: the Python one takes milliseconds an agent."""
    return AgentParser(Resolver(load_lazy_builtins()), load_bot_rules())


def _device_logic(agent: str, browser: UserAgent | None, system: OS | None, device: Device | None) -> DeviceLogic:
    """user-agents' object without its constructor, which would parse the agent again (650 us).

    Of versions its device logic reads the system's only, and of that whether it is `RT` or `ME`.
    """
    logic = DeviceLogic.__new__(DeviceLogic)
    logic.ua_string = agent
    logic.browser = Browser(browser.family if browser else "Other", (), "")
    logic.os = OperatingSystem(system.family if system else "Other", (), _version(system))
    logic.device = parse_device(device.family, device.brand, device.model) if device else _NO_DEVICE
    return logic


def _device_type(agent: str, logic: DeviceLogic) -> str:
    if any(map(agent.__contains__, _TV_PARTS)) and _TV.search(agent):
        return "other"
    if logic.is_tablet:
        # user-agents calls every Android agent without `Mobile Safari` a tablet, apps' own agents (Dalvik, Instagram,
        # okhttp) too: they print no such word on any device, so they count as phones unless they say tablet.
        is_app = logic.os.family == "Android" and "AppleWebKit" not in agent and "Gecko/" not in agent
        return "phone" if is_app and "tablet" not in agent.lower() else "tablet"
    if logic.is_mobile or logic.device.family == "iOS-Device":
        return "phone"
    return "pc" if logic.is_pc else "other"


def _family(name: str | None) -> str:
    return "" if name is None or name == "Other" else text_of(name, DIMENSION_BYTES_MAX)


def _version(found: UserAgent | OS | None) -> str:
    if found is None:
        return ""
    return text_of(".".join(filter(None, (found.major, found.minor, found.patch))), DIMENSION_BYTES_MAX)
