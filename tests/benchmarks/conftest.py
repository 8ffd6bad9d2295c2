import sys
from pathlib import Path

# The benchmarks are scripts, and what they share lies beside them.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
