"""docs/kubeflow.md: its config compiles, its commands exist; the image's recipe finds what it copies."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import factories
import pytest
import typer

from pipeline import cli, kubeflow
from pipeline import config as configs

TOP = Path(__file__).parents[1]
PAGE = (TOP / "docs" / "kubeflow.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for _, block in BLOCKS for line in block.splitlines() if line.startswith("bertline ")]


def test_the_config_of_the_page_compiles(tmp_path):
    path = factories.write_task(tmp_path, factories.reviews(3))
    (section,) = (block for language, block in BLOCKS if language == "yaml")
    path.write_text(path.read_text(encoding="utf-8") + section, encoding="utf-8")
    compiled = kubeflow.compile_line(configs.load(path))
    values = {
        name: each["defaultValue"] for name, each in compiled.spec["root"]["inputDefinitions"]["parameters"].items()
    }
    assert (values["data_folder"], values["serving_folder"]) == ("gs://BUCKET/data", "gs://BUCKET/reviews/serving")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_page_exists_with_its_options(command):
    _, name, *arguments = shlex.split(command, comments=True)
    known = typer.main.get_command(cli.app).commands
    known[name].make_context(name, arguments)


def test_the_page_names_each_parameter_of_the_pipeline():
    for name in kubeflow.PARAMETERS:
        assert f"`{name}`" in PAGE


def test_what_the_image_copies_is_there_and_let_through():
    recipe = (TOP / "Dockerfile").read_text(encoding="utf-8")
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (?!--from)(.+)$", recipe, re.MULTILINE)]
    let_through = (TOP / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for source in (source for sources in copied for source in sources):
        assert (TOP / source).exists(), source
        assert f"!{source}" in let_through
    assert re.search(r"^USER \d+:\d+$", recipe, re.MULTILINE), "Kubernetes checks by number that it is not root"


def test_hadolint_finds_nothing_in_the_images_recipe():
    hadolint = Path(sys.executable).with_name("hadolint")
    checked = subprocess.run([hadolint, TOP / "Dockerfile"], capture_output=True, text=True, check=False)
    assert checked.stdout == ""
