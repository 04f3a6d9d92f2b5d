"""Which user agents are bots: rules with names, most specific first. Pure data and one compiled set.

Two kinds of mistake are kept out. Agents of HTTP libraries in apps (okhttp, CFNetwork, Dalvik, Java) are what real
apps send here, so they are bots only when they declare themselves as one. And some patterns of the crawler list are
also names of phones, builds or in-app browsers; those patterns are left out (a test reads every device of uap-core).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import version
from typing import Final

import ua_parser_rs

OWN_RULES_VERSION: Final = 1
"""Raised with every change of `OWN_RULES`, `LEFT_OUT` or `_APP_LIBRARY`: rows carry it."""

OWN_RULES: Final[tuple[tuple[str, str], ...]] = (
    ("imessage_preview", r"facebookexternalhit/\S+ Facebot Twitterbot"),
    ("facebook_preview", r"facebookexternalhit|Facebot\b|meta-external"),
    ("whatsapp_preview", r"^WhatsApp\b"),  # Signal's previews use this name too
    ("telegram_preview", r"TelegramBot"),
    ("twitter_preview", r"Twitterbot"),
    ("slack_preview", r"Slackbot|Slack-ImgProxy"),
    ("discord_preview", r"Discordbot"),
    ("skype_preview", r"SkypeUriPreview"),
    ("snapchat_preview", r"Snap URL Preview|SnapURLPreview"),
    ("office_preview", r"Microsoft Office Existence Discovery|ms-office; MSOffice|MicrosoftPreview|BingPreview"),
    ("google_preview", r"Google-PageRenderer|Google Web Preview|GoogleMessages-?LinkPreview|GoogleImageProxy"),
    ("link_preview", r"(?i)(?:link|url)[-_ ]?(?:preview|expand|unfurl)|unfurl"),
    ("link_scanner", r"(?i)(?:link|url|phish(?:ing)?|malware|virus)[-_ ]?(?:scan|check)"),
    ("safe_links", r"(?i)safe[-_ ]?links|urldefense|protection\.outlook"),
    (
        "message_scanner",
        (
            r"(?i)proofpoint|barracuda|mimecast|messagelabs|cloudmark|virustotal|urlscan|phishtank|netcraft|fireeye"
            r"|adaptivemobile|zscaler|trendmicro|forcepoint"
        ),
    ),
    ("headless_browser", r"HeadlessChrome|PhantomJS|SlimerJS"),
)
"""Link previews and scanners that open the links of messages: the bots this service meets most. Rust regex syntax."""

LEFT_OUT: Final = frozenset(
    {
        # HTTP libraries of real apps
        "okhttp",
        r"^Apache-HttpClient",
        "HttpUrlConnection",
        r"AHC\/",
        "CustomAsyncHttpClient",
        # also phones, builds of Android and versions of browsers
        "Butterfly",
        "Sonic",
        "speedy",
        r"008\/",
        r"RED\/",
        r"AP3A\.240617\.008",
        # also browsers and apps in which people click
        "MetaIAB Facebook",
        "Sogou",
        r"^Silk\/",
        "Viber",
        r"Notion\/",
        r"Tumblr\/",
        r"Bluesky\/",
        "Goodreads",
        "Hatena",
        "Mastodon",
        "Friendica",
        "Lemmy",
        "Synapse",
        "WhatsApp",  # an own rule anchors it
    }
)
"""Patterns of the crawler list that are not used."""

_APP_LIBRARY: Final = re.compile(
    r"okhttp|CFNetwork|Dalvik|^Java/|Java-http-client|Apache-Http(?:Async)?Client|HttpUrlConnection|^JNLP/|AHC/",
    re.IGNORECASE,
)
_DECLARES_ITSELF: Final = re.compile(r"\(compatible;|\+https?://|\+www\.")

_REGEX_ESCAPES: Final = re.compile(r"\\(.)")


def is_app_library(agent: str) -> bool:
    """Whether the agent is that of an app's HTTP library and does not call itself a crawler."""
    return _APP_LIBRARY.search(agent) is not None and _DECLARES_ITSELF.search(agent) is None


class BotRules:
    """All rules in one set of regular expressions: about 1 us per agent, where 1,500 searches would take 200 us."""

    def __init__(self, crawler_patterns: Iterable[str], crawlers_version: str) -> None:
        self._names = [f"own:{name}" for name, _ in OWN_RULES]
        patterns = [pattern for _, pattern in OWN_RULES]
        for pattern in crawler_patterns:
            if pattern not in LEFT_OUT:
                self._names.append("crawlers:" + _REGEX_ESCAPES.sub(r"\1", pattern)[:80])
                patterns.append(pattern)
        # The extractor's family is the rule's index: it answers with the first rule, in order, that matches.
        self._rules = ua_parser_rs.UserAgentExtractor(
            [(pattern, str(index), None, None, None, None) for index, pattern in enumerate(patterns)]
        )
        self.version = f"own-{OWN_RULES_VERSION}+crawlers-{crawlers_version}+user-agents-{version('user-agents')}"

    def reason(self, agent: str, *, is_spider: bool) -> str:
        """Name of the first rule that matches, '' for none. `is_spider`: the rule of user-agents."""
        match = self._rules.extract(agent)
        if match is None and not is_spider:
            return ""
        if is_app_library(agent):  # asked last: few agents come here, and it takes ten times as long as all rules
            return ""
        return "user-agents:spider" if match is None else self._names[int(match.family)]


def load_bot_rules() -> BotRules:
    """The rules of the installed packages. The crawler list reads its file when it is imported, so not before now."""
    from crawleruseragents import CRAWLER_USER_AGENTS_DATA

    patterns = (str(crawler["pattern"]) for crawler in CRAWLER_USER_AGENTS_DATA)
    return BotRules(patterns, version("crawler-user-agents"))
