"""Environment variables for Flower and Ray: no telemetry, no update checks, no installations at run time.

A module imports this one before Flower.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# A random name, so that no other user can have created the folder; Flower creates it if it needs it.
os.environ.setdefault("FLWR_HOME", str(Path(tempfile.gettempdir()) / f"ppml-flwr-{os.urandom(8).hex()}"))
