"""What holds for every test."""

from hypothesis import settings

# A time limit for an example would assert the speed of the machine; pytest-timeout ends what hangs.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
