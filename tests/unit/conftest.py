"""Pure tests: nothing is timed, because a busy machine is not a wrong answer. FUZZ_EXAMPLES: how many, for a night."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "not-timed",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")),
)
settings.load_profile("not-timed")
