"""Pure tests: no deadline per example, because a busy machine is not a wrong answer. FUZZ_EXAMPLES: how many, for a night."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("no-deadline", deadline=None, max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")))
settings.load_profile("no-deadline")
