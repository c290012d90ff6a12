import pytest
from markdown_it import MarkdownIt

from bertline.components.markdown import plain


@pytest.mark.parametrize(
    "text",
    [
        "<img src=x onerror=alert(1)>",
        "![x](https://example.com/pixel.png) [y](javascript:alert(1))",
        "a | b `c` *d* __e__ ~~f~~ &lt; \\",
    ],
)
def test_a_string_is_shown_as_it_stands(text):
    markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = markdown.parseInline(plain(text))[0].children
    assert {token.type for token in tokens} <= {"text", "text_special"}
    assert "".join(token.content for token in tokens) == text


def test_a_bare_address_is_broken_by_marks_that_are_not_shown():
    assert plain("https://example.com, www.example.com: file:7") == r"https\://example.com, www\.example.com: file:7"
    assert MarkdownIt().renderInline(plain("https://example.com")) == "https://example.com"


def test_a_line_break_ends_no_table():
    assert plain("a\n\n# b\t|") == r"a \# b \|"
