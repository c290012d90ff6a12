import subprocess
import sys

import pytest

from benchmarks import scale


def figures(seconds, processor_seconds, gib):
    return {"Stage": {"seconds": seconds, "processor_seconds": processor_seconds, "peak_bytes": gib * 2**30}}


@pytest.mark.parametrize(
    ("many", "holds"),
    [
        (figures(100, 95, 5), True),  # 0.9 times the time per row beyond the start
        (figures(130, 95, 5), False),  # 1.2 times, though 0.65 times with the start
        (figures(100, 95, 7), False),
    ],
)
def test_bars(many, holds, capsys):
    results = {10: figures(10, 5, 1), 1000: figures(20, 14, 2), 10_000: many}
    assert scale.judge(results, workers=2) == holds
    assert "processor time per row, without the start: 9009 us" in capsys.readouterr().out  # 90 s for 9,990 rows


def test_memory_of_processes_below_counts():
    with scale.Memory() as memory:
        # A GB for two seconds: more than what libraries that other programs share, or let go, change of the figure
        program = "import time; x = b'x' * 1_000_000_000; time.sleep(2)"
        subprocess.run([sys.executable, "-S", "-c", program], check=True)
        here = memory.peak
    with scale.Memory() as without_child:
        pass
    assert here - without_child.peak > 500_000_000
