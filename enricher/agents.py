"""User agent in, finished answer out: browser, system, device, kind of device, resolution, bot. No I/O.

Rules: parse at most 1,024 bytes; keep the *finished* answers in a bounded LRU, since few agents make up most clicks;
a missing or unknown dimension is the empty string (reports call it Others); an unknown agent is not a bot.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.metadata import version
from typing import Final, NamedTuple

from ua_parser import Domain, RegexResolver, Resolver
from ua_parser.core import OS, Device, UserAgent
from ua_parser.loaders import load_lazy_builtins
from user_agents.parsers import UserAgent as DeviceLogic
from user_agents.parsers import parse_browser, parse_device, parse_operating_system

from enricher.bot_rules import BotRules, load_bot_rules
from enricher.texts import bounded

AGENT_BYTES_PARSED_MAX: Final = 1024
"""contract.md: parsed up to 1,024 bytes; regular expressions see no more than this."""
AGENT_BYTES_STORED_MAX: Final = 2048
"""contract.md: stored up to 2,048 bytes."""
AGENTS_CACHED_MAX: Final = 50_000
"""Finished answers kept: at most about 50 MB of keys."""
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


NO_AGENT: Final = Agent()

_PAIR = r"(\d{3,4})[xX*](\d{3,4})"
# The pair stands alone between separators, so that neither builds (ref1024.2012), hex numbers nor model names match.
_RESOLUTION: Final = re.compile(r"(?:^|[\s;,(/:])" + _PAIR + r"(?=$|[\s;,)\]/-])")
_FACEBOOK_DISPLAY: Final = re.compile(r"FBDM/\{[^}]*\bwidth=(\d{3,4}),height=(\d{3,4})")
_BAIDU_REVERSED: Final = re.compile(r"baidub(?:oxapp|rowser)/\S*?_diordna_(\d{3,4})_(\d{3,4})")
PIXELS_MIN: Final = 100
PIXELS_MAX: Final = 8192
"""Screens are between 101 pixels (old phones' width) and 8K; other pairs are something else."""

_TV: Final = re.compile(r"\b(?:TV|SmartTV|GoogleTV|BRAVIA|AFT[A-Z]+|CrKey|Roku|Web0S)\b")


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
    if (match := _FACEBOOK_DISPLAY.search(agent)) is not None:
        return _screen(match[1], match[2])
    if (match := _BAIDU_REVERSED.search(agent)) is not None:
        return _screen(match[2][::-1], match[1][::-1])
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
        self._resolver = resolver
        self._bot_rules = bot_rules
        self._parse = lru_cache(AGENTS_CACHED_MAX)(self._parse_cold)
        self.agent_rules = f"uap-{version('ua-parser-builtins')}"
        self.bot_rules = bot_rules.version

    def parse(self, agent: str) -> Agent:
        """The answer for an agent of `given_agent`. Never raises."""
        if not agent:
            return NO_AGENT
        return self._parse(bounded(agent, AGENT_BYTES_PARSED_MAX))

    @property
    def cache_hits_misses(self) -> tuple[int, int]:
        """How often the answer was known and how often it had to be parsed."""
        return self._parse.cache_info()[:2]

    def _parse_cold(self, agent: str) -> Agent:
        parsed = self._resolver(agent, Domain.ALL)
        browser, system, device = parsed.user_agent or UserAgent(), parsed.os or OS(), parsed.device or Device()
        logic = _device_logic(agent, browser, system, device)
        bot_reason = self._bot_rules.reason(agent, is_spider=bool(logic.is_bot))
        return Agent(
            browser=_family(browser.family),
            browser_version=_version(browser.major, browser.minor, browser.patch),
            os=_family(system.family),
            os_version=_version(system.major, system.minor, system.patch),
            device=_family(device.family),
            device_brand=_family(device.brand),
            device_type="bot" if bot_reason else _device_type(agent, logic),
            resolution=resolution_of(agent),
            is_bot=bot_reason != "",
            bot_reason=bot_reason,
        )


def load_agent_parser() -> AgentParser:
    """A parser with the installed rules; takes about 0.2 s. The Rust resolver is required, the Python one is slow."""
    if RegexResolver is None:
        raise ImportError("ua-parser[regex] is required: the pure Python resolver takes milliseconds per agent")
    return AgentParser(RegexResolver(load_lazy_builtins()), load_bot_rules())


def _device_logic(agent: str, browser: UserAgent, system: OS, device: Device) -> DeviceLogic:
    """user-agents' object without its constructor, which would parse the agent again (650 us)."""
    logic = DeviceLogic.__new__(DeviceLogic)
    logic.ua_string = agent
    logic.browser = parse_browser(browser.family, browser.major, browser.minor, browser.patch)
    logic.os = parse_operating_system(system.family, system.major, system.minor, system.patch)
    logic.device = parse_device(device.family, device.brand, device.model)
    return logic


def _device_type(agent: str, logic: DeviceLogic) -> str:
    if _TV.search(agent):
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
    return "" if name is None or name == "Other" else bounded(name, DIMENSION_BYTES_MAX)


def _version(*parts: str | None) -> str:
    return bounded(".".join(part for part in parts if part), DIMENSION_BYTES_MAX)
