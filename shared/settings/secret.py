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
        "at least 32 characters, as from `openssl rand -hex 32`; without it sessions end with the process",
    )

    @field_validator("secret_key")
    @classmethod
    def _long_enough(cls, key: SecretStr) -> SecretStr:
        if 0 < len(key.get_secret_value()) < CHARACTERS_MIN:
            raise ValueError(f"has fewer than {CHARACTERS_MIN} characters: make one with openssl rand -hex 32")
        return key
