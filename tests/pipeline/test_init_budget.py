"""`bertline init --p50-ms --size`: what is given up, what is written, and what is said."""

import re

import pytest
from typer.testing import CliRunner

from bertline.errors import UserError
from bertline.models import hardware, packages
from bertline.models.hardware import Hardware
from bertline.pipeline import config
from bertline.pipeline.cli import app
from bertline.pipeline.init import budget as budgets
from bertline.pipeline.init import trial, write_config
from bertline.pipeline.init.budget import SERVER_MS, Budget
from bertline.pipeline.init.weights import DEFAULT

MB = 1_000_000


@pytest.fixture
def table(tmp_path):
    rows = [f"item {number} was {word},{word}\n" for number in range(60) for word in ("good", "poor")]
    path = tmp_path / "reviews.csv"
    path.write_text("text,label\n" + "".join(rows))
    return path


@pytest.fixture
def clock(monkeypatch):
    """A machine on which a layer takes 2 ms in float32 and 1 ms in bfloat16, static 0.3 ms, and a bilstm 0.2 ms."""
    each = {"float32": 2.0, "bfloat16": 1.0}
    monkeypatch.setattr(
        trial, "of_berts", lambda networks, dtype, tokens: [each[dtype] * network["layers"] for network in networks]
    )
    monkeypatch.setattr(trial, "of_static", lambda tokens: 0.3)
    monkeypatch.setattr(trial, "of_bilstm", lambda texts, tokens: (0.2, 60))


@pytest.fixture(autouse=True)
def bfloat16(monkeypatch):
    """Sets whether the machine multiplies bfloat16 in hardware; it does, unless a test says otherwise."""

    def set_to(there):
        budgets._multiplies_bfloat16.cache_clear()
        flags = ("amx_bf16",) if there else ()
        monkeypatch.setattr(hardware, "describe", lambda: Hardware(2, flags, gpus=(), tpu=False))

    set_to(True)
    yield set_to
    budgets._multiplies_bfloat16.cache_clear()


def proposed(table, **asked):
    """The config, and the sentence on the screen."""
    written = write_config(table, table.parent / "proposed.yaml", budget=Budget(**asked), force=True)
    return config.load(written.path), written.findings[-1]


def test_what_the_whole_model_keeps_to_changes_nothing_but_the_gates(table):
    task, said = proposed(table, size=100 * MB)
    assert said == "for --size 100MB: all of 6 layers in float32, about 93 MB"  # as MiniLM's is
    assert task.evaluate.gates.max_size == 100 * MB
    assert task.export.dtype == "float32"
    assert not task.compress.makes_student
    assert task.canary.max_p50_ms is None


@pytest.mark.parametrize(
    ("size", "dtype", "vocabulary", "layers"),
    [
        (60, "bfloat16", "whole", None),
        (30, "int8", "whole", None),
        (20, "int8", "used", None),
        (12, "int8", "used", 3),
    ],
)
def test_a_size_is_met_by_giving_up_the_least(table, size, dtype, vocabulary, layers):
    task, said = proposed(table, size=size * MB)
    assert (task.export.dtype, task.compress.vocabulary, task.compress.layers) == (dtype, vocabulary, layers)
    assert int(re.search(r"about (\d+) MB", said)[1]) <= size


def test_bfloat16_is_not_proposed_for_its_size_alone_where_it_would_be_slower(table, clock, bfloat16):
    bfloat16(False)
    assert proposed(table, size=60 * MB)[0].export.dtype == "int8"
    assert proposed(table, size=60 * MB, p50_ms=6 + SERVER_MS)[0].export.dtype == "bfloat16"  # measured as faster


def test_a_time_is_met_by_bfloat16_then_by_fewer_layers(table, clock):
    task, said = proposed(table, p50_ms=6 + SERVER_MS)
    assert (task.export.dtype, task.compress.layers) == ("bfloat16", None)
    assert said.startswith(
        "for --p50-ms 7.5: all of 6 layers in bfloat16, 7.5 ms; all of 6 layers in float32, 13.5 ms (measured here"
    )
    task, said = proposed(table, p50_ms=4.5)
    assert (task.export.dtype, task.compress.layers) == ("bfloat16", 3)
    assert task.canary.max_p50_ms == 4.5
    assert task.compress.vocabulary == "whole"  # fewer words are no faster


def test_where_no_transformer_keeps_to_it_a_family_without_one_is_proposed(table, clock):
    task, said = proposed(table, p50_ms=2)
    assert task.model.family == "static"
    assert task.model.backbone.startswith("package://")  # which it is distilled from
    assert task.train.learning_rate == 0.001  # the family's own recipe
    assert "static in float32, 1.8 ms" in said
    task, said = proposed(table, p50_ms=2, size=12 * MB)
    assert (task.model.family, task.export.dtype) == ("static", "int8")
    task, said = proposed(table, p50_ms=1.75)
    assert task.model.family == "bilstm"
    assert task.train.learning_rate == 0.002
    assert "bilstm, 1.7 ms" in said


def test_the_sizes_are_those_that_were_measured(table):
    """MiniLM's SavedModel had 92.8 MB in float32, and 26.7 in int8 (docs/compression.md)."""
    weights = budgets.Weights(packages.resolve(DEFAULT), (("good",),), 3)
    sizes = budgets._sizes(weights.folder)
    for dtype, size in {"float32": 92.8, "int8": 26.7}.items():
        counted = budgets._of_bert(sizes, 6, dtype, sizes["words"], 0.0).size
        assert size * MB <= counted <= 1.04 * size * MB


def test_both_at_once(table, clock):
    task, _ = proposed(table, p50_ms=6, size=17 * MB)
    assert (task.export.dtype, task.compress.vocabulary, task.compress.layers) == ("bfloat16", "used", 3)
    written = (table.parent / "proposed.yaml").read_text()
    assert (
        "# for --p50-ms 6 and --size 17MB: 3 of 6 layers in bfloat16 with only the wordpieces of your rows" in written
    )


def test_what_no_model_keeps_to_is_refused_with_what_there_is(table, clock):
    with pytest.raises(UserError, match=r"No model keeps to --p50-ms 1: all of 6 layers in float32, 13.5 ms; .*bilstm"):
        proposed(table, p50_ms=1)


def test_a_layer_is_never_timed_below_nothing(monkeypatch):
    """On a busy machine the longer network may have been the faster."""
    monkeypatch.setattr(trial, "of_berts", lambda networks, dtype, tokens: [3.0, 2.0])
    sizes = {"hidden": 8, "heads": 2, "intermediate": 16}
    assert budgets._times(sizes, "float32", 8)(6) == 3.0 + SERVER_MS


def test_real_networks_are_timed():
    sizes = {"hidden": 8, "heads": 2, "intermediate": 16}
    times = trial.of_berts([{**sizes, "layers": layers} for layers in (1, 2)], "float32", 5)
    assert all(time > 0 for time in times)
    assert trial.of_static(5) > 0
    time, words = trial.of_bilstm(["good item", "good item", "poor"], 5)
    assert time > 0
    assert words == 5  # three special ones, and what came twice


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--size", "tiny"], "--size: 'tiny' is no size; write one such as 20MB."),
        (["--p50-ms", "0"], "--p50-ms: 0 is no time; name milliseconds above 0, such as 5."),
    ],
)
def test_what_is_no_time_or_size_is_refused(table, options, words):
    with pytest.raises(UserError, match=re.escape(words)):
        CliRunner().invoke(app, ["init", str(table), *options], catch_exceptions=False, standalone_mode=False)
