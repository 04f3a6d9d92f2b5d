"""The setting that secrets of our own are sealed with."""

from __future__ import annotations

from typing import Final

from pydantic import Field, SecretStr, field_validator

from shared.settings.group import Group

CHARACTERS_MIN: Final = 32


class SecretSettings(Group):
    """secrets."""

    secret_key: SecretStr = Field(
        SecretStr(""),
        description="seals the dashboard's sessions and webhook secrets: the same at all processes, "
        "at least 32 characters, as from `openssl rand -hex 32`; without it sessions end with the process. "
        "Several with commas (a key has none): the first seals, all open",
    )

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys, the one that seals first; none when nothing is set."""
        return tuple(filter(None, (key.strip() for key in self.secret_key.get_secret_value().split(","))))

    @field_validator("secret_key")
    @classmethod
    def _long_enough(cls, keys: SecretStr) -> SecretStr:
        text = keys.get_secret_value()
        if text and any(len(key.strip()) < CHARACTERS_MIN for key in text.split(",")):
            raise ValueError(f"has a key of fewer than {CHARACTERS_MIN} characters: make one with openssl rand -hex 32")
        return keys
