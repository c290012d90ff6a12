"""The table of stages against what is wired: neither has what the other lacks."""

import subprocess
import sys

import factories
import pytest
from tfx.dsl.components.base.executor_spec import BeamExecutorSpec

from bertline.components.options import StudentGates
from bertline.components.validation import ReviewedSchema
from bertline.models.recipe import ModelOptions
from bertline.pipeline import config as configs
from bertline.pipeline import kubeflow, stages
from bertline.pipeline.facts import RunFacts
from bertline.pipeline.parts import Settings
from bertline.pipeline.pipeline import create_pipeline
from bertline.pipeline.stages import Beam, Node

SCHEMA = "".join(f'feature {{ name: "{name}" type: BYTES }}\n' for name in ("text", "label"))


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A config that leaves no stage out."""
    recipe = {"augment": "{operations: [swap]}", "unlabelled": "new.csv"}
    path = factories.write_task(tmp_path_factory.mktemp("task"), factories.reviews(3), **recipe)
    cluster = "kubeflow: {image: 'bertline:1', data_folder: /data, root: /volume}\n"
    more = "tracking: {tool: tensorboard}\npretrain: {}\ntune: {every_run: true}\ncompress: {layers: 1}\n"
    path.write_text(f"{path.read_text()}{more}{cluster}", encoding="utf-8")
    return configs.load(path)


def with_reviewed_schema(config):
    schema = f"{config.folder}/schema.pbtxt"
    with open(schema, "w", encoding="utf-8") as file:
        file.write(SCHEMA)
    validation = config.validation.model_copy(update={"schema_file": schema})
    return config.model_copy(update={"validation": validation})


def with_a_pretrained_backbone(config):
    return config.model_copy(update={"model": ModelOptions()})


def local(config, **arguments):
    facts = RunFacts("a", "", "{}", cache_keys=dict.fromkeys(Node, ""))
    return create_pipeline(config, facts, Settings.local(config), pipeline_root="/tmp", **arguments)


def test_every_row_of_the_table_is_wired_by_some_config(everything):
    variants = (everything, with_reviewed_schema(everything), with_a_pretrained_backbone(everything))
    wired = {node.id for config in variants for node in local(config).components}
    assert wired | set(kubeflow.compile_line(everything).stages) == set(Node)


def test_a_stage_without_a_row_is_refused(everything):
    stray = ReviewedSchema(contents="").with_id("Stray")
    with pytest.raises(LookupError, match=r"Stray: wired, and without a row in .*stages\.Node"):
        local(everything, before=[stray])


def test_the_order_of_the_table_is_one_in_which_the_stages_can_run(everything):
    order = list(Node)
    for node in local(with_a_pretrained_backbone(everything)).components:
        for before in node.upstream_nodes:
            assert order.index(before.id) < order.index(node.id)


def test_the_table_knows_which_stages_use_beam(everything):
    by_table = {node for node in Node if node.beam is not Beam.NONE}
    assert {n.id for n in local(everything).components if isinstance(n.executor_spec, BeamExecutorSpec)} == by_table


def test_the_table_knows_which_stages_make_the_model(everything):
    makers = set()
    for config in (everything, with_reviewed_schema(everything), with_a_pretrained_backbone(everything)):
        nodes = {node.id: node for node in local(config).components}
        waiting = [nodes[Node.PUSHER].inputs["model"]]
        while waiting:
            maker = nodes[waiting.pop().producer_component_id]
            makers.add(maker.id)
            waiting += maker.inputs.values()
    assert makers == {node for node in Node if node.makes_model}


def test_a_gate_of_the_student_does_not_train_it_again(everything):
    def given(**changed):
        compress = everything.compress.model_copy(update=changed)
        nodes = {node.id: node for node in local(everything.model_copy(update={"compress": compress})).components}
        return [nodes[node].exec_properties["options"] for node in (Node.COMPRESSOR, Node.STUDENT_GATE)]

    student, gate = given()
    assert given(gates=StudentGates(not_worse_by=0.5)) != [student, gate]
    assert given(gates=StudentGates(not_worse_by=0.5))[0] == student != given(layers=2)[0]


def test_the_table_knows_the_module_of_a_stage(everything):
    for node in [*local(with_a_pretrained_backbone(everything)).components, ReviewedSchema(contents="")]:
        module = node.executor_spec.executor_class.__module__
        assert Node(node.id).module == (module if module.startswith("bertline.") else "tensorflow_data_validation")


def test_trials_read_what_the_trainer_reads(everything):
    nodes = {node.id: node for node in local(with_a_pretrained_backbone(everything)).components}
    trainer, tuner = (
        {name: (channel.producer_component_id, channel.output_key) for name, channel in nodes[node].inputs.items()}
        for node in (Node.TRAINER, Node.TUNER)
    )
    assert trainer.pop("hyperparameters") == (Node.TUNER, "best_hyperparameters")
    assert tuner == trainer
    assert {Node.PRETRAINER, Node.AUGMENTER, Node.PSEUDO_LABELLER, Node.PROBE} < {
        producer for producer, _ in tuner.values()
    }


def test_a_line_of_the_screen_reports_as_a_whole_or_not_at_all():
    for line, members in stages.lines().items():
        assert len({node.reports for node in members}) == 1, line


def test_the_table_is_read_without_tfx():
    program = "import sys, bertline.pipeline.stages; print(*({'tfx', 'tensorflow', 'pydantic'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""
