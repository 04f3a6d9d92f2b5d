"""Pure tests: no deadline per example, because a busy machine is not a wrong answer."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
