"""Test the report page: it is self-contained, escapes user text, and covers every problem_type."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from fastrnn.fusion import ConfigError
from fastrnn.fusion.evaluation.evaluator import evaluate_run
from fastrnn.fusion.explain.explainer import explain_run
from fastrnn.fusion.report import html
from fastrnn.fusion.report.report import write_report

from ..trained import trained_run


class Page(HTMLParser):
    """Collects the tags, links and text of a page, and checks that it is well-formed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.mark.parametrize("problem_type", ["multilabel", "regression"])
def test_report_of_an_evaluated_and_explained_run(problem_type, tmp_path):
    run = trained_run(tmp_path, problem_type, baselines=False)
    evaluation, explanation = evaluate_run(run.folder), explain_run(run.folder, examples=1)
    assert evaluation["score"] == {"regression": "r2"}.get(problem_type, "accuracy")
    path = write_report(run.folder)
    text = path.read_text(encoding="utf-8")
    found = Page(text)
    assert not {"script", "link", "iframe", "object", "form"} & set(found.tags)
    assert all(link.startswith("data:image/png;base64,") for link in found.links)
    assert "url(" not in text
    assert "http" not in text.replace("http-equiv", "")
    pictures = {each.name for each in (run.folder / "pictures").iterdir()}
    assert len(found.links) == len(pictures)
    words = " ".join(found.words)
    titles = (
        "Run",
        "Results",
        "Learning curves",
        "Robustness",
        "Explanation",
        "Reproduce this run",
    )
    for title in titles:
        assert title in words
    assert explanation["examples"][0]["where"] in words
    if problem_type == "multilabel":  # a label is "<red>"
        assert "<red>" in words
        assert "<red>" not in text
    else:
        assert write_report(run.folder).read_text(encoding="utf-8") == text
        assert {"scatter.png", "robustness.png"} <= pictures
        score = evaluation["models"]["fusion"]["scores"]["mae"]["value"]
        assert f"{score:.3f}" in words


def test_report_compares_models_only_if_there_are_baselines(tmp_path):
    folder = trained_run(tmp_path, "binary", baselines=False).folder
    evaluation = evaluate_run(folder)
    said = "fusion is better than late: 0.9 vs 0.5"
    compared = [{"model": "late", "gain": {"low": 0.1}, "summary": said}]
    for comparison in ([], compared):
        (folder / "evaluation.json").write_text(json.dumps(evaluation | {"comparison": comparison}))
        words = " ".join(Page(write_report(folder).read_text(encoding="utf-8")).words)
        assert ("Fusion compared with the other models" in words) == bool(comparison)
        assert (said in words) == bool(comparison)


def test_report_of_a_run_that_was_only_trained(tmp_path):
    """The report names the commands that provide the missing sections."""
    run = trained_run(tmp_path, "binary", baselines=False)
    words = " ".join(Page(write_report(run.folder).read_text(encoding="utf-8")).words)
    assert "fastrnn evaluate" in words
    assert "fastrnn explain" in words
    assert "image, text" in words


def test_a_report_needs_a_run(tmp_path):
    with pytest.raises(ConfigError, match="give a run's folder"):
        write_report(tmp_path)


def test_all_text_is_escaped():
    hostile = '<img src=x onerror="alert(1)">'
    body = html.join(
        [
            html.section(hostile, html.lead(hostile)),
            html.heading(hostile),
            html.verdict(hostile, None),
            html.code(hostile),
            html.headline(hostile, hostile),
            html.table([hostile], [[hostile]]),
            html.card_title(hostile, hostile, True),
            html.tokens([{"name": hostile, "attribution": 1.0}, {"name": "", "attribution": None}]),
        ]
    )
    found = Page(html.whole(hostile, body))
    assert "img" not in found.tags
    assert "".join(found.words).count(hostile) == 14  # the title counts twice


def test_number_formats():
    assert [html.number(each) for each in (None, 0.12345, -3.0, 12345.6)] == [
        "–",
        "0.123",
        "-3.000",
        "12,346",
    ]
    cell = html.changed(0.5, 0.25)
    assert cell == "0.500<small>−0.250</small>"
    assert json.dumps(html.interval({"value": 0.5, "low": None, "high": 1.0})) == json.dumps(
        "0.500<small>– to 1.000</small>"
    )
