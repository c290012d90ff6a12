"""What a second run does again, from the file to the review page."""

import shutil
from pathlib import Path

import factories

from bertline.pipeline import cache_keys, lineage, local_runner
from bertline.pipeline import config as configs
from bertline.pipeline.stages import Node

TOP = Path(__file__).parents[2]


def write_backbone(folder):
    """A preset of keras-hub with random weights, other ones each time."""
    import keras_hub

    shutil.rmtree(folder, ignore_errors=True)
    words = factories.write_review_vocabulary(folder.with_suffix(".txt"))
    network = keras_hub.models.BertBackbone(
        vocabulary_size=len(words.read_text().splitlines()), num_layers=1, num_heads=2, hidden_dim=32,
        intermediate_dim=64, max_sequence_length=16,
    )  # fmt: skip
    network.save_to_preset(folder)
    keras_hub.models.BertTokenizer(vocabulary=str(words)).save_to_preset(folder)


def ran(config):
    """The stages that the run did not find in the cache."""
    result = local_runner.run(config, "task.yaml")
    stages = lineage.Store(config).stages(result.run_id)
    assert {stage.state for stage in stages} <= {"complete", "cached"}
    return {stage.name for stage in stages if stage.state == "complete"}


def test_replaced_weights_train_anew_and_a_rule_of_the_page_does_not(tmp_path, monkeypatch):
    path = factories.write_task(tmp_path, factories.reviews(150), epochs=1)
    write_backbone(tmp_path / "bert")
    lines = path.read_text(encoding="utf-8").splitlines()
    lines = [f"  backbone: {tmp_path}/bert" if line.startswith("  backbone:") else line for line in lines]
    path.write_text("\n".join(lines).replace("gates: {accuracy: 0.8, macro_f1: 0.8}", "gates: {}"), encoding="utf-8")
    config = configs.load(path)
    for folder in ("bertline", "components", "models", "monitoring", "streams", "serving", "pipeline"):
        shutil.copytree(TOP / folder, tmp_path / "source" / folder)
    monkeypatch.setattr(cache_keys, "TOP", tmp_path / "source")
    monkeypatch.chdir(tmp_path)  # outside git, whose state is part of a release

    assert ran(config) >= {Node.EXAMPLE_GEN, Node.TRAINER, Node.PUSHER, Node.REVIEW}
    with (tmp_path / "source/components/review_page/page.css").open("a") as style:
        style.write("body { margin: 0 }\n")
    assert ran(config) == {Node.REVIEW}
    write_backbone(tmp_path / "bert")
    again = ran(config)
    assert again >= {Node.TRANSFORM, Node.TRAINER, Node.EVALUATOR, Node.REVIEW}
    assert not again & {Node.EXAMPLE_GEN, Node.STATISTICS_GEN, Node.SCHEMA_GEN, Node.BASELINE}
