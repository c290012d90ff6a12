"""Debian's Prometheus and Alertmanager over one endpoint, with the alarms going to a webhook."""

import shutil
import subprocess
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml
from engines import free_port

DEPLOY = Path(__file__).parents[1] / "monitoring" / "deploy"
RULES, ALERTMANAGER = DEPLOY / "prometheus-rules.yaml", DEPLOY / "alertmanager.yaml"
TOOLS = ("promtool", "amtool", "prometheus", "prometheus-alertmanager")
needed = pytest.mark.skipif(
    not all(map(shutil.which, TOOLS)),
    reason="Prometheus is a system package, for root to install: apt install prometheus prometheus-alertmanager",
)


@contextmanager
def alarms_to(address, folder, port):
    """Both programs, with the shipped rules and the shipped Alertmanager file at a quicker pace.

    Args:
        address: HOST:PORT of the webhook.
        folder: for their files.
        port: of the endpoint that is scraped.
    """
    managed = free_port()
    manager = yaml.safe_load(ALERTMANAGER.read_text())
    manager["route"] |= {"group_wait": "1s", "group_interval": "2s"}
    manager["receivers"][0]["webhook_configs"][0]["url"] = f"http://{address}/alarms"
    prometheus = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{managed}"]}]}]},
        "scrape_configs": [{"job_name": "monitor", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}],
    }
    (folder / "alertmanager.yaml").write_text(yaml.safe_dump(manager))
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(prometheus))
    commands = (
        (
            "prometheus-alertmanager",
            f"--config.file={folder}/alertmanager.yaml",
            f"--storage.path={folder}/alertmanager",
            f"--web.listen-address=127.0.0.1:{managed}",
            "--cluster.listen-address=",
        ),
        (
            "prometheus",
            f"--config.file={folder}/prometheus.yaml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{free_port()}",
        ),
    )
    with ExitStack() as running:
        for command in commands:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
            running.callback(process.wait)
            running.callback(process.terminate)
        yield
