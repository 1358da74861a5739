"""How many examples hypothesis tries, and that their time is no matter.  Not for: fixtures.

A test that wants more than others takes a multiple of ``settings().max_examples``.
"""

import os

from hypothesis import settings

settings.register_profile("quick", deadline=None, max_examples=25)
settings.register_profile("thorough", deadline=None, max_examples=100)
settings.load_profile("thorough" if os.environ.get("CI") else "quick")
