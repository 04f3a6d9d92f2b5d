"""What every group of settings has in common."""

from __future__ import annotations

from pydantic_settings import BaseSettings, SettingsConfigDict


class Group(BaseSettings):
    """A frozen group of settings; `shared.settings.load` refuses names that no group knows."""

    model_config = SettingsConfigDict(env_prefix="CLICKLEDGER_", frozen=True, extra="ignore", env_ignore_empty=True)
