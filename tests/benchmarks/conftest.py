"""Benchmarks are scripts beside each other, not a package: their folder has to be on the path."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
