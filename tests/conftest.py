"""Settings that every test module shares."""

import os

from hypothesis import settings

# No test may reach for a model hub, nor any process that a test starts.
os.environ["HF_HUB_OFFLINE"] = "1"

# Cases are timed in benchmarks, not here, and CI has nowhere to keep a database.
settings.register_profile("mergekit-breadcrumbs", deadline=None, database=None)
settings.load_profile("mergekit-breadcrumbs")
