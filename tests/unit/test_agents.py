"""User agents: what is not given, resolution, device type, bots, the cache."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enricher.agents import Agent, given_agent, resolution_of
from enricher.bot_rules import OWN_RULES
from tests.support.enriching import agent_parser

CHROME = (
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/120.0.6099.144 Mobile Safari/537.36"
)


def parse(text: str) -> Agent:
    """The answer for an agent as sent."""
    return agent_parser().parse(given_agent(text))


@pytest.mark.parametrize("text", [None, "", "  ", "-", " - ", "null", "NULL", "undefined", "unknown", "Unknown\t"])
def test_placeholders_are_not_given(text: str | None) -> None:
    """What apps send instead of an agent is stored as nothing and parsed as nothing."""
    assert given_agent(text) == ""
    assert agent_parser().columns(text) == b""


def test_the_published_example_is_trimmed_and_parsed() -> None:
    """The published page's agent begins with a space."""
    agent = parse(
        " Mozilla/5.0 (Windows NT 6.1; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/64.0.3282.186 Safari/537.36"
    )
    assert agent[:4] == ("Chrome", "64.0.3282", "Windows", "7")
    assert (agent.device_type, agent.is_bot, agent.resolution) == ("pc", False, "")


@pytest.mark.parametrize("length", [2047, 2048, 2049])
def test_stored_agents_have_at_most_2048_bytes(length: int) -> None:
    """The bound counts bytes and never splits a character."""
    assert len(given_agent("a" * length)) == min(length, 2048)
    stored = given_agent("ä" * length)
    assert len(stored.encode()) == 2048
    assert set(stored) == {"ä"}


def test_only_the_first_1024_bytes_are_parsed() -> None:
    """What comes later changes nothing."""
    assert parse("x" * 1024 + "Googlebot/2.1").is_bot is False
    assert parse("x" * 1000 + " Googlebot/2.1").is_bot is True


PRINTED = [
    # Instagram, iOS and Android
    (
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/21F79 "
            "Instagram 334.0.4.32.98 (iPhone13,2; iOS 17_5; en_US; en; scale=3.00; 1170x2532; 612014361)"
        ),
        "1170x2532",
    ),
    (
        "Instagram 415.0.0.36.76 Android (33/13; 320dpi; 720x1600; samsung; SM-A032M; a3core; m168; pt_BR; 874816631)",
        "720x1600",
    ),
    # Facebook for Android
    (
        "[FBAN/FB4A;FBAV/130.0.321;FBBV/149649;FBDM/{density=1.5,width=480,height=800};FBLC/es_ES;FBDV/LG-P920;FBSV/2.2.2;]",
        "480x800",
    ),
    (
        (
            "Mozilla/5.0 (Linux; Android 13; SM-S908B) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/118.0 Mobile "
            "Safari/537.36 [FBAN/EMA;FBDM/{density=3.0,width=1080,height=2316};FBDV/SM-S908B;]"
        ),
        "1080x2316",
    ),
    # Opera Mini
    ("Opera/9.80 (BREW; Opera Mini/5.1.191/27.1591; U; en) Presto/2.8.119 240X400 LG VN27181M8992", "240x400"),
    # UC Browser
    ("JUC (Linux; U; 4.0.4; zh-cn; L-01E; 720*1280) UCWEB7.9.0.94/139/444", "720x1280"),
    # Baidu, which prints its fields backwards
    (
        (
            "Mozilla/5.0 (Linux; U; Android 4.0.4; zh-cn; HS-E926) AppleWebKit/534.30 Mobile Safari/534.30 "
            "baiduboxapp/042_0.4_diordna_008_084/esnesiH_51_4.0.4_629E-SH/7300017a"
        ),
        "480x800",
    ),
    ("MessageMe/1.0.12-56 (samsung-goldenxx; Android 4.1.1; Scale/480x800-240dpi)", "480x800"),
    ("Mozilla/4.0 (compatible; Linux 2.6.22) NetFront/3.4 Kindle/2.5 (screen 1200x824; rotate)", "1200x824"),
    (
        "Mozilla/5.0 (7665MB; 720x1600; 254x254; 360x800; Xiaomi 25078PC3EG; 15) ROBLOX Android App 2.707.734",
        "720x1600",
    ),
]
NOT_PRINTED = [
    CHROME,
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148 Weibo (iPhone17,1__weibo__15.4.1__iphone__os18.5)",
    "Mozilla/5.0 (Windows NT 10.0) Chrome/132.0 NetType/WIFI MicroMessenger/7.0.20.1781(0x6700143B) XWEB/17071",
    "Mozilla/5.0 (iPhone) Snapchat/10.38.0.25 (iPhone8,1; iOS 11.2.6; gzip)",
    "Mozilla/5.0 (Linux; Android 4.0.4; Cloudfone Thrill 500g Build/1.0.722_20121025)",
    "Foo/480.800 Bar/1080x",
    "Foo/12345x67890",
    "Foo (99x100)",
    "Foo (9999x1080)",
    "Model a1080x1920b",
    "UCWEB7.9.4.145/139/800",
]


@pytest.mark.parametrize(("agent", "resolution"), PRINTED)
def test_resolution_is_read_where_the_agent_prints_it(agent: str, resolution: str) -> None:
    """In-app browsers and old phones print their screen in several forms."""
    assert parse(agent).resolution == resolution


@pytest.mark.parametrize("agent", NOT_PRINTED)
def test_versions_and_models_are_no_resolution(agent: str) -> None:
    """Numbers that only look like a screen are left alone."""
    assert resolution_of(agent) == ""


@pytest.mark.parametrize(
    ("agent", "device_type"),
    [
        (CHROME, "phone"),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Version/17.5 Mobile/15E148 Safari/604.1",
            "phone",
        ),
        (
            "Mozilla/5.0 (iPad; CPU OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Version/17.5 Mobile/15E148 Safari/604.1",
            "tablet",
        ),
        (
            "Mozilla/5.0 (Linux; Android 13; SM-X700) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
            "tablet",
        ),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Version/17.5 Safari/605.1.15", "pc"),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:126.0) Gecko/20100101 Firefox/126.0", "pc"),
        ("Mozilla/5.0 (SMART-TV; Linux; Tizen 6.0) AppleWebKit/537.36 SamsungBrowser/4.0 TV Safari/537.36", "other"),
        ("Dalvik/2.1.0 (Linux; U; Android 13; SM-G991B Build/TP1A.220624.014)", "phone"),
        ("ExampleApp/4.2 (com.example; build:17; iOS 17.5.1) CFNetwork/1494.0.7 Darwin/23.4.0", "phone"),
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "bot"),
        ("okhttp/4.12.0", "other"),
        ("xyzzy", "other"),
    ],
)
def test_the_kind_of_device(agent: str, device_type: str) -> None:
    """phone, tablet, pc, bot or other; Android apps' own agents count as phones."""
    assert parse(agent).device_type == device_type


@pytest.mark.parametrize(
    "agent",
    [
        "okhttp/4.9.3",
        "okhttp/3.12.1",
        "DAVdroid/1.9.2-gplay (2017/11/04; dav4android; okhttp3) Android/7.1.2",
        "Dalvik/2.1.0 (Linux; U; Android 13; SM-G991B Build/TP1A.220624.014)",
        "ExampleApp/3 CFNetwork/1408.0.4 Darwin/22.5.0",
        "ChatbotApp/3 CFNetwork/1408.0.4 Darwin/22.5.0",
        "Java/1.8.0_151",
        "Java-http-client/17.0.1",
        "Apache-HttpClient/4.5.13 (Java/11.0.3)",
        "Apache-HttpClient/UNAVAILABLE (java 1.4)",
        "Jersey/2.25.1 (HttpUrlConnection 1.8.0_141)",
        "Mozilla/5.0 (Linux; Android 9; CUBOT_NOTE_S) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/92.0 Mobile Safari/537.36",
        "Mozilla/5.0 (Linux; Android 4.4.1; HTC Butterfly S Build/JRO03C) AppleWebKit/535.19 Chrome/18.0 Mobile Safari/535.19",
        "Mozilla/5.0 (Linux; Android 15; CPH2617 Build/AP3A.240617.008) AppleWebKit/537.36 Chrome/125.0 Mobile Safari/537.36",
        "Mozilla/5.0 (Linux; Android 16; Pixel 10; wv) AppleWebKit/537.36 Chrome/146.0 Mobile Safari/537.36 MetaIAB Facebook",
        "complete nonsense",
        "\x00\x01",
    ],
)
def test_real_apps_and_unknown_agents_are_no_bots(agent: str) -> None:
    """HTTP libraries of apps, phones with names like a crawler's, and agents nobody knows count as people."""
    assert (parse(agent).is_bot, parse(agent).bot_reason) == (False, "")


OWN_EXAMPLES = {
    "imessage_preview": "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_11_1) AppleWebKit/601.2.4 (KHTML, like Gecko) "
    "Version/9.0.1 Safari/601.2.4 facebookexternalhit/1.1 Facebot Twitterbot/1.0",
    "facebook_preview": "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
    "whatsapp_preview": "WhatsApp/2.23.20.0 A",
    "telegram_preview": "TelegramBot (like TwitterBot)",
    "twitter_preview": "Twitterbot/1.0",
    "slack_preview": "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
    "discord_preview": "Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)",
    "skype_preview": "Mozilla/5.0 (Windows NT 6.1; WOW64) SkypeUriPreview Preview/0.5",
    "snapchat_preview": "Mozilla/5.0 (compatible; Snap URL Preview Service; bot; snapchat; https://developers.snap.com/robots)",
    "office_preview": "Microsoft Office Existence Discovery",
    "google_preview": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/120.0 Safari/537.36 Google-PageRenderer Google (+https://developers.google.com/+/web/snippet/)",
    "link_preview": "Shortwave-Link-Preview/1.0",
    "link_scanner": "ExampleVendor URL-Scanner/3.1",
    "safe_links": "Mozilla/5.0 (Windows NT 10.0) SafeLinks/1.0",
    "message_scanner": "Mozilla/5.0 (Windows NT 10.0; Win64; x64) Barracuda Sentinel (EE)",
    "headless_browser": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/120.0 Safari/537.36",
}


def test_every_own_rule_has_an_example_that_it_names() -> None:
    """Link previews and scanners are flagged with our rule's name, which comes before the long list's."""
    assert list(OWN_EXAMPLES) == [name for name, _ in OWN_RULES]
    for name, agent in OWN_EXAMPLES.items():
        assert (parse(agent).bot_reason, parse(agent).device_type) == (f"own:{name}", "bot")


@pytest.mark.parametrize(
    ("agent", "reason"),
    [
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "crawlers:Googlebot/"),
        ("curl/8.5.0", "crawlers:^curl"),
        ("python-requests/2.31.0", "crawlers:python-requests"),
        ("Mozilla/5.0 (compatible; EtaoSpider/1.0; http://open.etao.com/dev/EtaoSpider)", "user-agents:spider"),
        (
            "Dalvik/2.1.0 (Linux; Android 6.0.1; Nexus 5X) (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            "crawlers:Googlebot/",
        ),
    ],
)
def test_crawlers_are_flagged_with_the_rules_name(agent: str, reason: str) -> None:
    """The crawler list comes first, user-agents' rule last; an app library that calls itself a crawler is one."""
    assert parse(agent).bot_reason == reason


def test_rule_sets_carry_their_versions() -> None:
    """Rows say which rules they were made with."""
    assert agent_parser().agent_rules.startswith("uap-")
    assert {part.split("-")[0] for part in agent_parser().bot_rules.split("+")} == {"own", "crawlers", "user"}


def test_finished_answers_are_remembered() -> None:
    """The second time an agent is seen costs a look-up, not a parse."""
    parser = agent_parser()
    first = parser.columns(CHROME + " once")
    hits, misses = parser.remembered.hits, parser.remembered.misses
    assert parser.columns(CHROME + " once") is first
    assert (parser.remembered.hits, parser.remembered.misses) == (hits + 1, misses)


@given(st.text(max_size=3000))
def test_parsing_never_raises_and_stays_bounded(text: str) -> None:
    """Any text gives an answer whose strings fit their columns."""
    agent = parse(text)
    assert all(len(value.encode()) <= 200 for value in agent if isinstance(value, str))
    assert agent.is_bot == (agent.bot_reason != "")
