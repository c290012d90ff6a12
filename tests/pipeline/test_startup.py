"""The command line starts quickly: what lists and helps imports neither TensorFlow nor TFX."""

import subprocess
import sys

import factories
import pytest
from past_runs import PastRuns

from bertline.pipeline import config as configs

# Seconds to import each.
HEAVY = {"tensorflow", "tfx", "keras", "apache_beam", "tensorflow_model_analysis", "sklearn", "pyarrow", "mlflow"}
PROGRAM = f"""
import sys
from bertline.pipeline import cli
try:
    cli.main()
finally:
    print("heavy:", *sorted({{name.partition(".")[0] for name in sys.modules}} & {HEAVY}), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A task with one past run and no release."""
    config = factories.write_task(tmp_path_factory.mktemp("task"), factories.reviews(3))
    PastRuns(configs.load(config).root_folder).add_pushed("2026-11-22T06:10:00Z", "17")
    return config


@pytest.mark.parametrize("command", ["--help", "runs", "config", "review", "releases"])
def test_nothing_heavy_is_imported(command, config):
    arguments = [command] if command == "--help" else [command, str(config)]
    ran = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert ran.stderr.splitlines()[-1] == "heavy:", ran.stderr
