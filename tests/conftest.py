"""Options and fixtures for all tests; nothing is started before a test asks for it."""

from __future__ import annotations

pytest_plugins = ("tests.support.stack",)
