"""Lets the tests here import `small_run`, as another process does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
