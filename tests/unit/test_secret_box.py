"""Sealed secrets open with their own key, purpose and label only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from shared.errors import OperatorError
from shared.secret_box import NotOurs, SecretBox
from shared.settings import SecretSettings, load

SETTINGS = SecretSettings(secret_key=SecretStr("k" * 32))


@given(st.binary(max_size=200), st.binary(max_size=20))
def test_what_was_sealed_opens_in_another_process(plain: bytes, label: bytes) -> None:
    """A box made from the same settings opens it, in both forms; two seals of one text differ."""
    box, other = SecretBox(SETTINGS, "test"), SecretBox(SETTINGS, "test")
    assert other.decrypt(box.encrypt(plain, label), label) == plain
    assert other.decrypt_text(box.encrypt_text(plain, label), label) == plain
    assert box.encrypt(plain) != box.encrypt(plain)
    assert plain == b"" or len(plain) < 4 or plain not in box.encrypt(plain)


@pytest.mark.parametrize(
    "other",
    [
        SecretBox(SecretSettings(secret_key=SecretStr("l" * 32)), "test"),
        SecretBox(SETTINGS, "another purpose"),
        SecretBox(SecretSettings(secret_key=SecretStr("")), "test"),
    ],
    ids=["another key", "another purpose", "no key"],
)
def test_nobody_else_opens_it(other: SecretBox) -> None:
    """Another key, another purpose and a process without a key are refused."""
    with pytest.raises(NotOurs):
        other.decrypt(SecretBox(SETTINGS, "test").encrypt(b"secret"))


def test_a_key_is_replaced() -> None:
    """While both are given the new one seals and both open; then the former key is not needed, and does not open."""
    former, both, new = (
        SecretBox(SecretSettings(secret_key=SecretStr(keys)), "test")
        for keys in ("k" * 32, f"{'n' * 32}, {'k' * 32}", "n" * 32)
    )
    assert both.decrypt(former.encrypt(b"secret")) == b"secret"
    assert new.decrypt(both.encrypt(both.decrypt(former.encrypt(b"secret")))) == b"secret"
    with pytest.raises(NotOurs):
        former.decrypt(both.encrypt(b"secret"))


def test_a_label_belongs_to_its_secret() -> None:
    """What was sealed for one record does not open for another one."""
    box = SecretBox(SETTINGS, "test")
    with pytest.raises(NotOurs):
        box.decrypt(box.encrypt(b"secret", b"webhook 1"), b"webhook 2")


@given(st.data())
def test_a_changed_byte_is_noticed(data: st.DataObject) -> None:
    """Whichever byte is changed, and to what."""
    box = SecretBox(SETTINGS, "test")
    sealed = bytearray(box.encrypt(b"secret"))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(NotOurs):
        box.decrypt(bytes(sealed))


@given(st.one_of(st.text(max_size=80), st.text("abcXYZ019-_=", max_size=80)))
def test_any_text_is_refused_and_not_a_crash(text: str) -> None:
    """What was never sealed, as a forged cookie."""
    with pytest.raises(NotOurs):
        SecretBox(SETTINGS, "test").decrypt_text(text)


def test_a_short_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that can be guessed stops the start, beside others too, and is not printed."""
    for keys in ("hunter2", f"{'k' * 32},hunter2", f"{'k' * 32},"):
        monkeypatch.setenv("CLICKLEDGER_SECRET_KEY", keys)
        with pytest.raises(OperatorError, match="CLICKLEDGER_SECRET_KEY: has a key of fewer than 32") as refused:
            load(SecretSettings)
        assert "hunter2" not in str(refused.value)
