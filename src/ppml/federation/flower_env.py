"""Flower and Ray at home: no telemetry, no update check, no installation of their own. Imported before Flower is."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# A folder that nobody has made: Flower makes it if it writes there at all, and no other user can have made it before.
os.environ.setdefault("FLWR_HOME", str(Path(tempfile.gettempdir()) / f"ppml-flwr-{os.urandom(8).hex()}"))
