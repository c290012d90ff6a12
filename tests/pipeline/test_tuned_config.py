"""The config that a search writes: its values, their reasons, and what it keeps of the config that was tuned."""

import re

import pytest

from bertline.components.tuning import page, space
from bertline.components.tuning.trials import Outcome, Trial
from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline import tune, tuned_config

CONFIG = """\
# Reviews of a shop.
name: reviews
data:
  source: reviews.csv  # from the shop
  labels: [bad, good]
train:
  # One epoch would do.
  epochs: 1  # a guess
  patience: 2
  # Twice the usual rate.
  learning_rate: 1e-4
evaluate:
  gates: {accuracy: 0.8}
tune: {trials: 5}
"""


def tuned(folder, text, **best):
    """The tuned config's text and what it is read as, after a search whose second trial was the best."""
    path, target = folder / "task.yaml", folder / "task-tuned.yaml"
    path.write_text(text, encoding="utf-8")
    config = configs.load(path)
    searched = space.default(space.Rows(2_000, 2, 6, True, True), config.model, config.train)
    own = searched.of_config(config.model, config.train)
    values = {**own, **{f"train.{key}": value for key, value in best.items()}}
    trials = [Trial(1, "complete", own, 0.61, 0.7, 1, 20.0), Trial(2, "complete", values, 0.5, 0.75, 2, 44.0)]
    outcome = Outcome(searched, trials, {"train.epochs": 0.4}, 2_000, 300)
    tuned_config.write(config, path, target, outcome)
    written = configs.load(target)
    assert (written.model, written.train) == space.combined(config.model, config.train, values)
    assert written.model_copy(update={"model": config.model, "train": config.train, "tune": config.tune}) == config
    return target.read_text(encoding="utf-8")


def test_each_value_has_its_reason_and_other_lines_stay(tmp_path):
    text = tuned(tmp_path, CONFIG, epochs=2, learning_rate=7.3e-5)
    assert "  epochs: 2  # trial 2; it was 1; tried: 1 to 3; 40% of the losses' spread\n" in text
    assert "learning_rate: 7.3e-05  # trial 2; it was 0.0001; tried: 2.5e-05 to 0.0004\n" in text
    assert "  dropout: 0.1  # trial 2; as it was; tried: 0, 0.1, 0.3\n" in text
    for line in ("# Reviews of a shop.", "source: reviews.csv  # from the shop", "# One epoch would do.", "patience: 2",
                 "# Twice the usual rate.", "gates: {accuracy: 0.8}"):  # fmt: skip
        assert f"{line}\n" in text
    assert "a guess" not in text and "tune:" not in text
    head = text.splitlines()[:4]
    assert head[0] == "# Written by `bertline tune task.yaml`: the best of 2 trials, which took 1.1 minutes."
    assert "loss 0.500000, accuracy 0.750, in 44 s" in head[1] and "0.610000 and 0.700, in 20 s" in head[2]


def test_a_tuned_config_that_is_tuned_again_has_one_head(tmp_path):
    once = tuned(tmp_path, CONFIG, epochs=2)
    again = tuned(tmp_path, once, epochs=3)
    assert again.count("Written by") == 1 and "it was 2" in again


def test_a_key_of_another_method_leaves_the_file(tmp_path):
    text = tuned(tmp_path, CONFIG.replace("patience: 2", "method: lora\n  lora: {rank: 4}"), method="full")
    assert "rank" not in text.replace("without train.lora", "") and "method: full  # trial 2; it was lora" in text
    assert "; without train.lora, which it does not take" in text


def test_a_section_at_its_defaults_leaves_the_file_with_its_method(tmp_path):
    text = tuned(tmp_path, CONFIG.replace("patience: 2", "method: lora\n  lora: {rank: 8}"), method="full")
    assert "rank" not in text


def test_labels_that_yaml_reads_as_something_else_stay(tmp_path):
    text = tuned(tmp_path, CONFIG.replace("[bad, good]", "[TRUE, 1e3]"), epochs=2)
    assert "epochs: 2  # trial 2" in text


def test_sections_on_one_line_get_a_line_for_each_reason(tmp_path):
    flow = re.sub(r"train:.*evaluate", "train: {epochs: 1}\nevaluate", CONFIG, flags=re.DOTALL)
    assert "\n  epochs: 2  # trial 2" in tuned(tmp_path, flow, epochs=2)


def test_a_file_that_no_search_wrote_is_not_replaced(tmp_path):
    config, mine, other = tmp_path / "task.yaml", tmp_path / "task-tuned.yaml", tmp_path / "other" / "tuned.yaml"
    mine.write_text("name: mine\n")
    with pytest.raises(UserError, match=r"task-tuned.yaml exists, and `bertline tune` has not written it"):
        tuned_config.check_target(config, mine)
    with pytest.raises(UserError, match=r"write it beside .*task.yaml"):
        tuned_config.check_target(config, other)
    mine.write_text(f"# {tuned_config.WRITTEN_BY} task.yaml`\n")
    tuned_config.check_target(config, mine)


@pytest.mark.parametrize(
    ("train", "time", "said"),
    [
        ("warm_start: true", None, r"train\.warm_start: trials start from the pretrained weights"),
        ("method: probe", None, r"train\.method: probe: nothing but the head"),
        ("distribution: multi_worker", None, r"train\.distribution: trials run on one machine"),
        ("epochs: 2", "45", r"--time: '45': write numbers with their units: 90s, 45m, 2h or 1h30m"),
    ],
)
def test_what_cannot_be_tuned_is_said_before_anything_runs(tmp_path, train, time, said):
    path = tmp_path / "task.yaml"
    path.write_text(f"name: x\ndata: {{source: x.csv}}\ntrain: {{{train}}}\n")
    with pytest.raises(UserError, match=said):
        tune.with_options(configs.load(path), None, time)


def test_a_space_is_checked_when_the_config_is_read(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text("name: x\ndata: {source: x.csv}\ntune: {space: {train.epoch: [1, 2]}}\n")
    with pytest.raises(UserError, match=r"tune\.space: train\.epoch: unknown key. Did you mean train\.epochs\?"):
        configs.load(path)


def test_the_page_fetches_nothing_and_shows_values_as_text():
    values = {"train.epochs": 1, "train.head": "<script>alert(1)</script>"}
    searched = space.Space((space.Dimension("train.epochs", (1, 2), True), space.Dimension("train.head", ("a",))), {})
    trials = [
        Trial(1, "complete", values, 0.61, 0.7, 1, 20.0),
        Trial(2, "failed", values, note="it diverged & stopped"),
        Trial(3, "complete", {"train.epochs": 2}, 0.5, 0.75, 2, 44.0),
        Trial(4, "pruned", {"train.epochs": 2}, 0.9, 0.65, 1, 12.0),
    ]
    for importances in ({}, {"train.epochs": 0.9, "train.head": 0.1}):
        html = page.render("reviews & more", Outcome(searched, trials, importances, 2_000, 300), "today")
        assert "default-src &#39;none&#39;" in html
        assert not re.search(r"""(?:src|href)=["'](?!#)|url\(|@import""", html)
        assert "<script>alert" not in html
        assert "it diverged &amp; stopped" in html and "reviews &amp; more" in html
        assert html.count('<svg class="chart"') == (3 if importances else 2)
        assert "Trial 3 is the best of 4" in html
