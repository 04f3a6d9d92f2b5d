"""Short URL -> key: every rule of the contract as a row of a table, and properties over any text."""

from __future__ import annotations

import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingest_api.answers import Refusal
from ingest_api.normalise import URL_BYTES_MAX, Normalised, _normalise_any, canonical_keys, is_blank, normalise

KEYS = {
    "as published": ("http://shortdomain/dsltrack/employee/j460A8", "shortdomain/dsltrack/employee/j460A8"),
    "white space around": (" \t\r\n\u00a0\u3000http://s.ex/a \n", "s.ex/a"),
    "zero-width around": ("\u200b\ufeffhttp://s.ex/a\u200d\u2060", "s.ex/a"),
    "angle brackets": ("<http://s.ex/a>", "s.ex/a"),
    "double quotes": ('"http://s.ex/a"', "s.ex/a"),
    "single quotes": ("'http://s.ex/a'", "s.ex/a"),
    "typographic quotes": ("“http://s.ex/a”", "s.ex/a"),
    "nested and mixed": (' <"http://s.ex/a">. ', "s.ex/a"),
    "no scheme": ("s.ex/a", "s.ex/a"),
    "no scheme, slashes": ("//s.ex/a", "s.ex/a"),
    "no scheme, port": ("s.ex:8080/a", "s.ex:8080/a"),
    "https": ("https://s.ex/a", "s.ex/a"),
    "scheme in capitals": ("HTTPS://s.ex/a", "s.ex/a"),
    "host in capitals": ("http://S.Ex/a", "s.ex/a"),
    "path case kept": ("http://s.ex/aBcD", "s.ex/aBcD"),
    "IDN": ("http://bücher.example/a", "xn--bcher-kva.example/a"),
    "IDN in capitals": ("http://BÜCHER.example/a", "xn--bcher-kva.example/a"),
    "punycode": ("http://xn--bcher-kva.example/a", "xn--bcher-kva.example/a"),
    "trailing dot of the host": ("http://s.ex./a", "s.ex/a"),
    "default port": ("http://s.ex:80/a", "s.ex/a"),
    "default port, https": ("https://s.ex:443/a", "s.ex/a"),
    "other port": ("http://s.ex:8080/a", "s.ex:8080/a"),
    "other scheme's default port": ("https://s.ex:80/a", "s.ex:80/a"),
    "double slashes": ("http://s.ex//a///b", "s.ex/a/b"),
    "dot segments": ("http://s.ex/x/../a/./b", "s.ex/a/b"),
    "encoded dot segments": ("http://s.ex/x/%2e%2E/a", "s.ex/a"),
    "above the root": ("http://s.ex/../../a", "s.ex/a"),
    "unreserved decoded": ("http://s.ex/%61%42%2D%5f%7E%2e1", "s.ex/aB-_~.1"),
    "reserved stay encoded": ("http://s.ex/a%2Fb%3f", "s.ex/a%2Fb%3F"),
    "decoded once": ("http://s.ex/%2541", "s.ex/%2541"),
    "raw and encoded UTF-8": ("http://s.ex/ü%c3%bc", "s.ex/%C3%BC%C3%BC"),
    "trailing slash": ("http://s.ex/a/", "s.ex/a"),
    "trailing slashes": ("http://s.ex/a//", "s.ex/a"),
    "host only": ("http://s.ex/", "s.ex"),
    "query": ("http://s.ex/a?utm=1&b", "s.ex/a"),
    "fragment": ("http://s.ex/a#top", "s.ex/a"),
    "at sign in the path": ("http://s.ex/@a", "s.ex/@a"),
    "backslashes": ("http:\\\\s.ex\\a", "s.ex/a"),
    "line break inside": ("http://s.ex/a\nb", "s.ex/ab"),
    "IPv4": ("http://192.0.2.1/a", "192.0.2.1/a"),
    "IPv6": ("http://[2001:DB8::1]:80/a", "[2001:db8::1]/a"),
    "NUL in the path": ("http://s.ex/a\0b", "s.ex/a%00b"),
} | {f"linkified {mark}": (f"http://s.ex/a{mark}", "s.ex/a") for mark in ".,;:!?)]"}

REFUSED = {
    "empty": ("", Refusal.URL_INVALID),
    "punctuation only": ("...", Refusal.URL_INVALID),
    "no host": ("http://", Refusal.URL_INVALID),
    "two trailing dots": ("http://s.ex../a", Refusal.URL_INVALID),
    "space in the host": ("http://s ex/a", Refusal.URL_INVALID),
    "NUL in the host": ("http://s\0ex/a", Refusal.URL_INVALID),
    "bad port": ("http://s.ex:99999/a", Refusal.URL_INVALID),
    "bad IPv6": ("http://[::g]/a", Refusal.URL_INVALID),
    "lone surrogate": ("http://s.ex/\ud800", Refusal.URL_INVALID),
    "ftp": ("ftp://s.ex/a", Refusal.URL_SCHEME),
    "mailto": ("mailto:a@s.ex", Refusal.URL_SCHEME),
    "javascript": ("javascript:alert(1)", Refusal.URL_SCHEME),
    "user": ("http://user@s.ex/a", Refusal.URL_USERINFO),
    "user and password": ("http://user:pw@s.ex/a", Refusal.URL_USERINFO),
    "empty user": ("http://@s.ex/a", Refusal.URL_USERINFO),
    "user, no scheme": ("user@s.ex/a", Refusal.URL_USERINFO),
}


@pytest.mark.parametrize(("text", "key"), KEYS.values(), ids=KEYS.keys())
def test_key(text: str, key: str) -> None:
    """Each spelling of a short URL leads to the key that the contract names."""
    assert normalise(text) == Normalised(key)


@pytest.mark.parametrize(("text", "refusal"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(text: str, refusal: Refusal) -> None:
    """What cannot be a short URL has no key and says why."""
    assert normalise(text) == Normalised("", refusal)


@pytest.mark.parametrize("size", [URL_BYTES_MAX - 1, URL_BYTES_MAX, URL_BYTES_MAX + 1])
@pytest.mark.parametrize("filler", ["a", "é"])
def test_longest_url(size: int, filler: str) -> None:
    """2,048 bytes of UTF-8 as sent are the most."""
    start = "http://s.ex/" + "a" * (size % 2)
    text = start + filler * ((size - len(start)) // len(filler.encode()))
    text += "a" * (size - len(text.encode()))
    refusal = Refusal.URL_TOO_LONG if size > URL_BYTES_MAX else None
    assert normalise(text).refusal is refusal


@pytest.mark.parametrize(("text", "blank"), [("", True), (" \t\u200b\ufeff\0", True), ("<>", False), ("a", False)])
def test_blank(text: str, blank: bool) -> None:
    """Only white space, controls and zero-width characters count as blank."""
    assert is_blank(text) is blank


URL_TEXT = st.text(st.sampled_from("abcXY019.-_~/:?#@%2eF[]()<>\"' \\\u200bü"), max_size=40)


@given(st.one_of(st.text(max_size=60), URL_TEXT, URL_TEXT.map("http://".__add__)))
def test_any_text(text: str) -> None:
    """Any text has a key or a reason, and the short cuts never change which."""
    result = normalise(text)
    assert bool(result.key) is (result.refusal is None)
    assert result == _normalise_any(text)


@given(st.one_of(URL_TEXT, st.text(max_size=30)).map("http://s.ex/".__add__))
def test_key_of_a_key(text: str) -> None:
    """The key of a key is the key: what is shown to an operator can be looked up again."""
    key = normalise(text).key
    assert not key or len(key) > URL_BYTES_MAX or normalise(key).key == key


def test_every_white_space() -> None:
    """Nothing but white space of any kind is blank."""
    white_space = "".join(chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace())
    assert all(is_blank(character) for character in white_space)


BEGINNINGS = st.sampled_from(("http://s.ex/", "s.ex/s/", "https://s.ex", "S.ex/", "s.ex//", "", "s.ex/?", "s.1/"))
ENDS = st.one_of(st.sampled_from(("a", "b_c", "~-", "A9", "", "a/b", "a\nb", "é")), st.text(max_size=3))


@given(
    st.lists(
        st.one_of(st.sampled_from(("http://s.ex/a", "s.ex/b_c")), URL_TEXT, st.text(max_size=9)), min_size=1, max_size=4
    )
    | st.tuples(BEGINNINGS, st.lists(ENDS, min_size=1, max_size=4)).map(
        lambda drawn: [drawn[0] + end for end in drawn[1]]
    )
)
@example(["s.ex/a", "s.ex/a\ns.ex/b"])
@example(["http://s.ex/a", "http://s.ex/b", "https://s.ex/c"])
@example(["s.ex/a\ns.ex/b"])
@example(["s.ex/a\ns.ex/b", "?", "s.ex/a"])
@example(["x s.ex/a"])
@example(["s.ex/a\n"])
@example(["s.ex/" + "a" * URL_BYTES_MAX])
def test_common_urls_together(texts: list[str]) -> None:
    """URLs that are normalised together have the keys that each has by itself; those of the common shape are."""
    keys = canonical_keys(texts)
    if keys is None:
        assert not set(texts) <= {"http://s.ex/a", "s.ex/b_c"}
    else:
        assert [Normalised(key) for key in keys] == [normalise(text) for text in texts]
