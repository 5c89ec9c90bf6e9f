from __future__ import annotations

import base64
import hashlib
import json
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.page import data, element, fragment, page, visible

TEXTS = st.text(st.characters(), max_size=40) | st.sampled_from(
    ["</script><img onerror=alert(1)>", "<!--", "-->", "]]>", "\u2028", "\u202e", "\ud800", "&lt;", "'\"`", "\x00"]
)


class Read(HTMLParser):
    """What a parser makes of a page: tags in order, and the text of each element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.comments: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


@given(TEXTS, TEXTS)
def test_text_and_attributes_come_back_as_they_were(text: str, value: str) -> None:
    read = Read(element("p", text, title=value).text)
    assert read.tags == [("p", {"title": visible(value)})]
    assert "".join(read.texts) == visible(text)
    assert not read.comments


@given(st.recursive(TEXTS | st.none() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.just("k"), x)))
def test_data_comes_back_as_it_was_and_ends_no_element(value: object) -> None:
    read = Read(data("x", value).text)
    assert [tag for tag, _ in read.tags] == ["script"]
    assert json.loads("".join(read.texts)) == _shown(value)
    assert "<" not in "".join(read.texts)


def _shown(value: object) -> object:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, list):
        return [_shown(x) for x in value]
    if isinstance(value, dict):
        return {key: _shown(x) for key, x in value.items()}
    return value


@given(TEXTS)
def test_what_is_visible_can_be_written_and_reorders_nothing(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    assert not set(shown) & set("\u202e\u2066\u200b\u2028\x00\x1b\xad")
    assert visible(shown) == shown


def test_names_in_any_script_stay_as_they_are() -> None:
    assert visible("слой/层 é\tα\n\ufffd") == "слой/层 é\tα\n\ufffd"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_lacks_become_null(number: float) -> None:
    assert json.loads("".join(Read(data("x", [number, 1.5]).text).texts)) == [None, 1.5]


@pytest.mark.parametrize(
    ("tag", "attributes"),
    [
        ("script", {}),
        ("Style", {}),
        ("p onclick", {}),
        ("p", {"onclick": "x"}),
        ("p", {"style": "x"}),
        ("img", {"src": "x"}),
        ("a", {"href": "javascript:x"}),
        ("a", {"href": "page.html"}),
        ("p", {"a b": "x"}),
    ],
)
def test_what_would_be_more_than_data_is_refused(tag: str, attributes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"element|attribute|leads out"):
        element(tag, **attributes)


def test_attributes_are_spelled_as_html_has_them() -> None:
    made = element("path", class_="line", stroke_width=1.5, aria_hidden="true", hidden=True, id=None, x=-0.001, y=2)
    assert made.text == '<path class="line" stroke-width="1.5" aria-hidden="true" hidden x="0" y="2"></path>'
    assert fragment("a", 1, element("br")).text == "a1<br>"


def test_the_policy_allows_the_pages_own_script_and_style_and_nothing_else() -> None:
    text = page("t", "body", style="p { color: red }", script="const x = 1;")
    policy = next(told["content"] for tag, told in Read(text).tags if told.get("http-equiv")) or ""
    for tag in ("style", "script"):
        content = text.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


@pytest.mark.parametrize("text", ["</script>", "x </SCRIPT ", "<!--", "</style>"])
def test_a_script_or_style_that_would_end_itself_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="would end it"):
        page("t", script=text)
    with pytest.raises(ValueError, match="would end it"):
        page("t", style=text)
