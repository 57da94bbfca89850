"""Test the report page: it is self-contained, escapes user text, and covers every problem_type."""

from __future__ import annotations

import json
import re
import shlex
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError
from rich.console import Console

from fastrnn.fusion import ConfigError, FitConfig, TrainConfig, fit, read_manifest
from fastrnn.fusion.config.schema import PROBLEM_TYPES, RunConfig
from fastrnn.fusion.evaluation.evaluator import evaluate_run
from fastrnn.fusion.explain.explainer import explain_run
from fastrnn.fusion.report import html, report
from fastrnn.fusion.report.report import write_report

from ..conftest import write_jsonl
from ..synthetic import config as configuration
from ..trained import DATA, OPTIONS, trained_run

TITLES = ("Run", "Results", "Learning curves", "Robustness", "Explanation", "Reproduce this run")
HOSTILE = """<img src=x onerror="alert('1')">&amp;{{ 1 }}"""


class Page(HTMLParser):
    """Collects the tags, links and text of a page, and checks that it is well-formed and safe."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.titles: list[str] = []  # of <h2>
        self.feed(self.source)
        assert not self.open
        assert not {"script", "link", "iframe", "object", "form", "a", "base"} & set(self.tags)
        assert all(link.startswith("data:image/png;base64,") for link in self.links)
        assert self.source.startswith("<!doctype html>")
        assert (
            "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\""
            in self.source
        )

    @property
    def text(self) -> str:
        """The text, with single spaces."""
        return " ".join(" ".join(self.words).split())

    @property
    def css(self) -> str:
        """The style sheet."""
        return self.source.partition("<style>")[2].partition("</style>")[0]

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
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)


def rewrite(path: Path, change: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.slow
@pytest.mark.parametrize(
    "problem_type",
    [
        pytest.param(each, marks=() if each == "binary" else pytest.mark.exhaustive)
        for each in PROBLEM_TYPES
    ],
)
def test_report_of_an_evaluated_and_explained_run(problem_type, tmp_path):
    run = trained_run(tmp_path, problem_type, baselines=problem_type == "binary")
    evaluation, explanation = evaluate_run(run.folder), explain_run(run.folder, examples=2)
    page = Page(write_report(run.folder))
    assert page.titles == list(TITLES)
    pictures = {each.name for each in (run.folder / "pictures").iterdir()}
    assert len(page.links) == len(pictures)
    assert ("scatter.png" in pictures) == (problem_type == "regression")
    assert ("roc.png" in pictures) == (problem_type == "binary")
    assert explanation["examples"][0]["where"] in page.text
    for name, score in evaluation["models"]["fusion"]["scores"].items():
        assert html.score_name(name) in page.text
        assert f"{html.number(score['value'])} {html.interval(score)}" in page.text
    for entry in evaluation["comparison"]:
        assert entry["summary"] in page.text
    assert evaluation["verdict"] in page.text
    tokens = [token for each in explanation["examples"] for token in each.get("tokens", [])]
    assert page.source.count('style="--opacity: ') == len(tokens)
    assert bool(tokens) == (problem_type != "steps")
    assert write_report(run.folder).read_text(encoding="utf-8") == page.source  # deterministic
    if problem_type == "regression":  # once: an evaluation of an earlier version
        path = run.folder / "evaluation.json"
        earlier = {name: each for name, each in evaluation.items() if name != "verdict"}
        path.write_text(json.dumps(earlier))
        assert evaluation["verdict"] not in Page(write_report(run.folder)).text


def test_a_report_loads_nothing_external(tmp_path):
    """Not even from the style sheet, where the parser finds no links."""
    page = Page(write_report(trained_run(tmp_path, "binary", baselines=False).folder))
    assert not re.search(r"url\(|@import|//", page.css)
    assert "http" not in page.source.replace("http-equiv", "")


def test_a_dark_page_has_its_own_colours(tmp_path):
    css = Page(write_report(trained_run(tmp_path, "binary", baselines=False).folder)).css
    light, dark = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    assert "color-scheme: light dark" in light
    assert "@media (prefers-color-scheme: dark)" in css
    colours = [re.findall(r"--(\w+): #", part) for part in (light, dark)]
    assert colours[0] == colours[1]
    assert set(re.findall(r"var\(--(\w+)\)", css)) <= set(re.findall(r"--(\w+):", css)) | {
        "opacity"
    }


@pytest.mark.slow
def test_text_of_the_user_is_escaped(tmp_path):
    """File and folder names, columns, labels, tokens, and the texts of the JSON files."""
    folder = tmp_path / HOSTILE
    folder.mkdir()
    rows = [{HOSTILE: HOSTILE, "label": f"{HOSTILE}{number % 2}"} for number in range(40)]
    manifest = write_jsonl(folder / f"{HOSTILE}.jsonl", rows)
    table = read_manifest(manifest, {"text": HOSTILE})
    config = FitConfig(DATA, OPTIONS)
    run = fit(table, folder / f"run{HOSTILE}", config, console=Console(quiet=True))
    evaluate_run(run.folder)
    examples = explain_run(run.folder, examples=1)["examples"]
    examples[0] |= {"where": f"row {HOSTILE}", "explained": HOSTILE}
    examples[0]["tokens"] += [
        {"name": f"token {HOSTILE}", "attribution": 1.0, "input": f"input {HOSTILE}"},
        {"name": "undefined", "attribution": None},
    ]
    rewrite(run.folder / "explanation.json", {"examples": examples})
    comparison = [{"model": HOSTILE, "summary": f"than {HOSTILE}", "gain": {"low": 1, "high": 2}}]
    rewrite(run.folder / "evaluation.json", {"comparison": comparison})
    page = Page(write_report(run.folder))
    shown = (
        f"run{HOSTILE}: text, binary",
        f"{HOSTILE}/{HOSTILE}.jsonl",
        f"text = {HOSTILE}",
        f"{HOSTILE}0, {HOSTILE}1",
        f"than {HOSTILE}",
        f"row {HOSTILE}",
        f"predicted {examples[0]['answer']}, actual {HOSTILE}",
        f"explained label: {HOSTILE}",
        f"input {HOSTILE} token {HOSTILE}",
        f"fastrnn evaluate {shlex.quote(str(run.folder))}",
    )
    for words in shown:
        assert words in page.text
    assert HOSTILE not in page.source
    assert "<img src=x" not in page.source


@pytest.mark.slow
def test_comparisons_are_coloured_by_their_significance(tmp_path):
    folder = trained_run(tmp_path, "binary", baselines=False).folder
    evaluate_run(folder)
    assert "Fusion compared with the other models" not in Page(write_report(folder)).text
    for low, high, outcome in (
        (0.1, 0.3, "better"),
        (-0.3, -0.1, "worse"),
        (-0.1, 0.1, "inconclusive"),
        (None, None, "inconclusive"),
    ):
        entry = {"model": "late", "gain": {"low": low, "high": high}, "summary": "0.9 vs 0.5"}
        rewrite(folder / "evaluation.json", {"comparison": [entry]})
        page = Page(write_report(folder))
        assert "Fusion compared with the other models 0.9 vs 0.5" in page.text
        # Also on top
        assert page.source.count(f'<p class="comparison {outcome}">0.9 vs 0.5</p>') == 2


@pytest.mark.slow
def test_robustness_has_a_row_for_each_change(tmp_path):
    """Changes with a strength have a column for each; the others are in a table of their own."""
    folder = trained_run(tmp_path, "binary", baselines=False).folder
    evaluate_run(folder)
    kinds = [("noise", 0.25), ("noise", 1.5), ("echo", 1.5), ("removed", None), ("shifted", None)]
    records = [
        {"modality": "audio", "change": change, "strength": strength, "score": n / 8, "drop": n / 4}
        for n, (change, strength) in enumerate(kinds)
    ]
    rewrite(folder / "evaluation.json", {"robustness": records})
    page = Page(write_report(folder))
    assert "modality change 0.25 1.5 audio noise 0.000 +0.000 0.125 −0.250" in page.text
    assert "audio echo 0.250 −0.500" in page.text
    assert "accuracy audio removed 0.375 −0.750 audio shifted 0.500 −1.000" in page.text
    assert {"robustness.png", "changes.png"} <= {p.name for p in (folder / "pictures").iterdir()}
    assert "audio + image + text, binary" in page.text


def test_report_of_a_run_that_was_only_trained(tmp_path):
    """The report names the commands that provide the missing sections."""
    run = trained_run(tmp_path, "binary", baselines=False)
    page = Page(write_report(run.folder))
    assert page.titles == [title for title in TITLES if title != "Robustness"]
    for command in ("evaluate", "explain"):
        assert f"Not available yet; run: fastrnn {command} {run.folder}" in page.text
    assert "image, text" in page.text


def test_commands_can_be_copied(tmp_path):
    folder = tmp_path / "a run"
    folder.mkdir()
    found = RunConfig(configuration(), TrainConfig(), manifest="my table.csv")
    evaluate, explain = report._commands(folder, found)  # options of a run in Python: unknown
    assert shlex.split(evaluate) == ["fastrnn", "evaluate", str(folder)]
    assert shlex.split(explain) == ["fastrnn", "explain", str(folder)]
    (folder / "config.yaml").touch()
    options = ["--config", str(folder / "config.yaml"), "--output-dir", "NEW"]
    fit_again = report._commands(folder, found)[0]
    assert shlex.split(fit_again) == ["fastrnn", "fit", "my table.csv", *options]


def test_report_without_metrics(tmp_path):
    run = trained_run(tmp_path, "binary", baselines=False)
    (run.folder / "metrics.jsonl").unlink()
    assert "Learning curves" not in Page(write_report(run.folder)).titles


def test_a_report_needs_a_run(tmp_path):
    with pytest.raises(ConfigError, match="give a run's folder"):
        write_report(tmp_path)


def test_templates_escape_all_text_and_need_all_values():
    for template in files(html.__package__).joinpath("templates").iterdir():
        assert not re.search(r"\bsafe\b|autoescape", template.read_text(encoding="utf-8"))
    with pytest.raises(UndefinedError):
        html.render("report.html", {})


def test_number_formats():
    numbers = [html.number(each) for each in (None, 0.12345, -3.0, 12345.6)]
    assert numbers == ["–", "0.123", "-3.000", "12,346"]
    assert [html.signed(each) for each in (None, 0.25, -0.25)] == ["–", "+0.250", "−0.250"]
    assert {html.signed(each) for each in (0.0, -0.0, 1e-4, -1e-4)} == {"+0.000"}
    assert html.interval({"value": 0.5, "low": None, "high": 1.0}) == "– to 1.000"
    assert html.score_name("r2") == "R²"
    assert html.score_name("log_loss") == "log loss"
