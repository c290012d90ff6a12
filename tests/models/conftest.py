import sys
from pathlib import Path

# Tests of one file run alone, and take what test_training.py, test_encoder.py and others make of each other by name.
sys.path[:0] = [str(Path(__file__).parent / folder) for folder in ("", "bert")]
