"""What `bertline serve` makes of serve.canary."""

import datetime

import factories
import pyarrow.parquet as pq
import pytest

from bertline.errors import UserError
from bertline.monitoring import feedback
from bertline.pipeline import config as configs
from bertline.pipeline import serve
from bertline.pipeline.monitor import Monitor
from bertline.serving import push
from bertline.serving.canary_judge import Labelled
from bertline.serving.record_files import SCHEMA, Parts


def task(folder, serve_section):
    config = factories.write_task(folder, factories.reviews(3))
    config.write_text(config.read_text().replace("serve: {port: 0}", f"serve: {{port: 0, {serve_section}}}"))
    return configs.load(config)


def handed_over(monkeypatch, made):
    """The options of the server that would run."""
    served = []
    monkeypatch.setattr(serve, "run_server", lambda server: served.append(server.options))
    serve.run(made, [], embedded=False)
    return served[0]


def test_the_plan_is_that_of_the_config(tmp_path, monkeypatch):
    made = task(tmp_path, "canary: {share: 0.2, for: 90s, minimum_requests: 400, patience: 2s}")
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")  # the real server does not do this
    options = handed_over(monkeypatch, made)
    assert (options.canary.share, options.canary.seconds, options.canary.patience) == (0.2, 90, 2)
    assert (options.canary.minimum_requests, options.canary.key) == (400, "x-session-id")
    assert (options.measure, options.shadow_records) == (None, None), "without records no label finds its answer"


def test_labels_are_those_of_feedback_on_the_records_of_both_versions(tmp_path, monkeypatch):
    made = task(tmp_path, "log: {rate: 1}, canary: {shadow: true}")
    options = handed_over(monkeypatch, made)
    assert options.records.folder == made.root_folder / "records"
    assert options.shadow_records.folder == made.root_folder / "records-shadow"
    now = datetime.datetime.now(datetime.UTC)
    for folder, version, label in ((options.records, 7, "positive"), (options.shadow_records, 8, "negative")):
        row = {"time": now, "id": "a", "model": made.name, "version": version, "status": "OK", "label": label}
        part = Parts(folder.folder, 30, 10**9).write({name: [row.get(name)] for name in SCHEMA.names})
        assert pq.read_table(part).num_rows == 1
    feedback.keep(made.root_folder / "monitor", [feedback.Correction(1, "a", "", "", "positive", "ann", "")])
    since = now - datetime.timedelta(hours=1)
    assert options.measure(since, 7, 8) == (Labelled(1, 1), Labelled(0, 1))


def test_the_monitor_watches_what_is_served(tmp_path):
    made = task(tmp_path, "log: {rate: 1}, canary: {}")
    made.records_folder.mkdir(parents=True)
    (tmp_path / "model").mkdir()
    for version in (100, 200):
        (tmp_path / "model" / "saved_model.pb").write_text(str(version))
        push.publish(
            tmp_path / "model", made.serving_folder, {"inputs": f"{version}"}, now=lambda version=version: version
        )
    (tmp_path / "runs/serving/100/canary.json").write_text('{"state": "promoted", "at": "2026-11-28T10:00"}')
    with pytest.raises(UserError, match=r"\b100\b"):  # no run of this test has pushed it
        Monitor(made).look()
