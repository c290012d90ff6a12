import json

import pytest

from benchmarks import peer
from benchmarks.ours import Clock
from bertline.errors import UserError
from bertline.models.recipe import ModelOptions, RandomBert, TrainOptions
from bertline.models.training import Progress


def progress(step):
    return Progress(epoch=1, epochs=1, step=step, steps=30, loss=1.0, examples_per_second=0.0, seconds_left=0.0)


def test_clock_leaves_out_the_first_steps(monkeypatch):
    clock = Clock(skip_steps=10, batch_size=32)
    for step, now in ((5, 100.0), (10, 200.0), (20, 204.0), (30, 210.0)):
        monkeypatch.setattr("time.perf_counter", lambda now=now: now)
        clock(progress(step))
    assert clock.examples_per_second() == 20 * 32 / 10.0


def test_peer_gets_our_recipe(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    arguments = peer.same_recipe(
        ModelOptions(backbone=str(tmp_path), max_length=64), TrainOptions(epochs=2, learning_rate=3e-5)
    )
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert options == {
        "--weights": str(tmp_path),
        "--max-length": "64",
        "--dropout": "0.1",
        "--epochs": "2",
        "--batch-size": "32",
        "--learning-rate": "3e-05",
        "--warmup-share": "0.1",
        "--weight-decay": "0.01",
        "--clip-norm": "1.0",
        "--class-weights": "none",
        "--patience": "2",
    }


def test_weights_that_the_peer_cannot_read(tmp_path):
    with pytest.raises(UserError, match="no peer"):
        peer.same_recipe(ModelOptions(backbone=RandomBert(vocabulary="vocab.txt")), TrainOptions())
    with pytest.raises(UserError, match="Hugging Face layout"):
        peer.same_recipe(ModelOptions(backbone=str(tmp_path)), TrainOptions())


def test_a_peer_that_is_not_built_or_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(peer, "PEERS", tmp_path)
    with pytest.raises(UserError, match="make bench-peers"):
        peer.run_peer("tfidf", tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho out of memory >&2\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(UserError, match=r"tfidf failed \(exit 3\):\nout of memory"):
        peer.run_peer("tfidf", tmp_path)
    python.write_text("#!/bin/sh\necho loading\necho '{\"runs\": []}'\n")
    assert peer.run_peer("tfidf", tmp_path) == json.loads('{"runs": []}')
