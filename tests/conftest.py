"""What holds for every test: property tests draw the same examples each time, and are not timed one by one."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("deterministic", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("deterministic")
