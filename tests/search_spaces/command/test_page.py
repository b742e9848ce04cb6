"""What pages are made of: words explained, and nothing that a narrow screen cuts off."""

from __future__ import annotations

import json
import re

import pytest

from search_spaces.command.page import STYLE, Markup, commands, embed, explained, figure, html, page, table
from search_spaces.command.words import PATTERN, WORDS, word_of


def titles(body: str) -> list[str]:
    return re.findall(r'<abbr title="[^"]*" tabindex="0">([^<]*)</abbr>', body)


def test_words_are_explained_once_in_a_section_and_in_a_table() -> None:
    body, used = explained(
        html("<h2>MES</h2><p>MES and MACs, MES</p>{}<h2>x</h2><p>supernets</p>", table(["MES", "MES"], [["MACs", ""]]))
    )
    assert titles(body) == ["MES", "MACs", "MES", "MACs", "supernet"]
    assert used == ["MACs", "MES", "supernet"]


def test_only_prose_is_explained() -> None:
    body = html("<pre>MES</pre><code>MES</code><svg><title>MES</title></svg><p>winner-retrained, MESH, 2.95 %:</p>")
    assert explained(body) == (body, [])


def test_what_is_text_stays_text() -> None:
    body, _ = explained(html("<p>{}</p>", "<b>MES</b> & <i>"))
    assert "<b>" not in body and "&lt;b&gt;" in body and "&amp; &lt;i&gt;" in body and titles(body) == ["MES"]


def test_a_page_ends_with_what_its_words_mean() -> None:
    whole = page("x", [Markup("<p>MES</p>")], plots=False)
    assert re.findall("<dt>(.*?)</dt>", whole) == ["MES"] and WORDS["MES"] in whole
    assert "What the words mean" not in page("x", [Markup("<p>plain</p>")], plots=False)


@pytest.mark.parametrize("word", WORDS)
def test_every_word_is_found_as_it_is_written(word: str) -> None:
    (found,) = PATTERN.findall(f"The {word} here")
    assert word_of(found) == word
    assert not WORDS[word].endswith(".")


def test_a_table_that_is_too_wide_for_a_phone_has_a_line_for_each_cell() -> None:
    narrow, wide = table(["a", "b"], [["1", "2"]]), table(["a\nb", *"cdefgh"], [["long words here", *["1.234 ms"] * 6]])
    assert 'class=""' in narrow and 'class="stack"' in wide
    assert '<td class="text" data-head="a, b"><span>long words here</span></td>' in wide
    assert ".stack td::before { content: attr(data-head)" in STYLE


def test_an_interval_is_a_second_line_of_its_cell() -> None:
    assert "<span>81.9 %<small>(80.1–83.2)</small></span>" in table(["a"], [["81.9 %\n(80.1–83.2)"]])


def test_the_names_of_axes_are_no_part_of_the_plot_which_would_clip_them() -> None:
    body = embed("p", figure([], "MES", "accuracy <b>, %"), "low")
    (data,) = re.findall(r'data-plot="p">(.*)</script>', body)
    layout = json.loads(data)["layout"]
    assert not any(layout[axis].get("title", {}).get("text") for axis in ("xaxis", "yaxis"))
    assert re.findall(r'<p class="axis (.)">([^<]*)', body) == [("y", "accuracy &lt;b&gt;, %"), ("x", "MES")]


def test_long_commands_go_on_in_the_next_line() -> None:
    assert commands(["a <b", "c"]) == Markup("<pre><span>a &lt;b</span><span>c</span></pre>\n")
    (pre,) = re.findall(r"\npre \{(.*?)\}", STYLE, re.DOTALL)
    assert "white-space: pre-wrap" in pre and "overflow-x" not in pre
