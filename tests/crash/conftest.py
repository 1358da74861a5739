"""How long an example of hypothesis takes is no matter of these tests.  Not for: fixtures."""

from hypothesis import settings

settings.register_profile("snaptree", deadline=None)
settings.load_profile("snaptree")
