"""The pages and figures that are made from records."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.report import figures, gpu, pages, readme, records, tables
from benchmarks.report.markdown import replace
from benchmarks.roofline import gpu as gpu_roofline
from benchmarks.runner import CaseResult
from benchmarks.shapes import Case, Shape
from benchmarks.timing import Times

from .factories import H200, full, record


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder with the documents that have generated blocks."""
    return with_blocks(tmp_path)


def with_blocks(folder: Path) -> Path:
    (folder / "docs").mkdir()
    for document, name in (("README.md", "benchmarks"), ("docs/gpu-notes.md", "gpu")):
        text = f"before\n<!-- {name}: begin -->\nold\n<!-- {name}: end -->\nafter\n"
        (folder / document).write_text(text)
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the record `full`."""
    folder = with_blocks(tmp_path_factory.mktemp("pages"))
    pages.write({"some-machine": full()}, folder)
    return folder


def figures_of(folder: Path, machine: str) -> list[Path]:
    return list((folder / pages.FIGURES / machine).iterdir())


@pytest.mark.slow
def test_summary_page(report: Path) -> None:
    text = (report / "docs/benchmarks.md").read_text()
    for words in ("Some(R) CPU X-1", "Geometric means", "Peak memory", "Published by others"):
        assert words in text
    assert "[All 28 cases](./benchmarks/some-machine.md)" in text
    assert "A baseline is faster in 12 of 28 cases" in text
    assert "**0.33×**" in text  # a losing ratio is bold
    assert "| inference | 2 | " in text  # memory


def test_page_of_all_cases(report: Path) -> None:
    text = (report / "docs/benchmarks/some-machine.md").read_text()
    assert text.startswith("# Some(R) CPU X-1")
    assert "| (100, 8, 64, 64) | inference | 1.00 |" in text
    assert "| (T, B, I, H) | pass | ours, ms | × bound | bound | nn.RNN |" in text
    assert "| (128, 8, 64, 64) | float32 | inference | nn.RNN | 1.00 |" in text
    for group in ("overview", "grid", "length", "width"):
        assert f"\n## {group}\n" in text


def test_readme_block(report: Path) -> None:
    text = (report / "README.md").read_text()
    assert text.startswith("before\n<!-- benchmarks: begin -->\n| (T, B, I, H) |")
    assert text.endswith("<!-- benchmarks: end -->\nafter\n")
    assert "old" not in text
    assert "| 1.00 | 2.00 nn.RNN | **2.00×** |" in text
    assert "A baseline is faster in 12 of the 28 cases. 0 of these have at most 8 steps" in text
    assert "The baselines are nn.RNN. They run" in text
    assert "The worst ratio is 0.33×: (50, 2, 64, 64) inference (nn.RNN)." in text
    assert text.count("<picture>") == 1
    gpu_notes = (report / "docs/gpu-notes.md").read_text()
    assert gpu_notes == "before\n<!-- gpu: begin -->\n\n<!-- gpu: end -->\nafter\n"


def test_pages_show_existing_figures(report: Path) -> None:
    names = {"speed-up-float32", "width", "length", "memory"}
    made = {path.name for path in figures_of(report, "some-machine")}
    assert made == {f"{name}{dark}.png" for name in names for dark in ("", "-dark")}
    for page in (report / "docs/benchmarks.md", report / "README.md"):
        shown = re.findall(r'(?:srcset|src)="([^"]+)"', page.read_text())
        assert shown
        assert all((page.parent / path).exists() for path in shown)


def test_figures_have_the_width_of_a_page_and_the_colours_of_their_theme(report: Path) -> None:
    for path in figures_of(report, "some-machine"):
        image = Image.open(path).convert("L")
        assert image.width >= 1200
        corner = image.getpixel((2, 2))
        assert corner < 40 if path.stem.endswith("-dark") else corner > 240
        shades = image.resize((100, 50)).histogram()
        assert sum(count > 0 for count in shades) > 20  # something is drawn


@pytest.mark.parametrize(
    ("ticks", "labelled"),
    [
        ((16, 32, 64, 128), (16, 32, 64, 128)),
        ((256, 264, 384, 392, 512, 1024, 1152, 2048), (256, 392, 512, 1024, 2048)),
        ((128, 512, 2048, 8192, 32768, 65536), (128, 512, 2048, 8192, 65536)),
        ((64,), (64,)),
    ],
)
def test_tick_labels_do_not_overlap(ticks: tuple[int, ...], labelled: tuple[int, ...]) -> None:
    assert [label for label in figures._labels(ticks) if label] == [f"{x:,}" for x in labelled]


def test_every_published_result_has_its_source_and_setup() -> None:
    entries = json.loads(pages.PUBLISHED.read_text())
    assert len(entries) >= 2
    for entry in entries:
        assert entry["source"].startswith("https://")
        assert entry["setup"]
        assert {len(row) for row in entry["rows"]} == {len(entry["header"])}
    text = "\n".join(pages.published())
    assert text.count("Source: <https://") == len(entries)
    assert "not measured here" in text


def gpu_record(*rows: records.Row, minute: int, **machine: Any) -> records.Record:
    """A record of a part of the plan, on an H200."""
    described = {"device": "cuda", "gpu": "NVIDIA H200", "capability": [9, 0], "processors": 132}
    described |= {"driver": "1", "cuda": "13.0", "cudnn": 91900, "triton": "3.6.0"}
    made = record(*rows, **{**described, "date": f"2030-01-02T03:{minute}+00:00", **machine})
    made["selection"] |= {"shapes": "gpu", "complete": False}
    return made


def gpu_rows(ours: float, *hidden: int, steps: int = 1000) -> list[records.Row]:
    """For each H, in two modes: a layer by both backends and nn.RNN, and kernels."""
    rows = []
    for size in hidden:
        for mode in ("float32", "float16"):
            for step, name in (("inference", "forward"), ("training", "backward")):
                shape = Shape(steps, 16, size, size)
                times = {"fastrnn.cuda": ours, "fastrnn.triton": 2 * ours, "nn.RNN": 3.0}
                made = {who: Times((ms, ms)) for who, ms in times.items()}
                case = Case("cudnn", "layer", shape, mode, step)
                rows.append(records.row(CaseResult(case, times=made), H200))
                names = ("cuda.cluster", "cuda.grid", "triton.rows")
                made = {who: Times((ours * (1 + i),)) for i, who in enumerate(names)}
                case = Case("cudnn", "kernel", shape, mode, name)
                row = records.row(CaseResult(case, times=made), H200)
                chosen = {"cuda.cluster": False, "cuda.grid": True, "triton.rows": True}
                row["choices"] = {who: {"chosen": is_so} for who, is_so in chosen.items()}
                rows.append(row)
    return rows


def test_newest_measurement_of_every_case_on_a_gpu(tmp_path: Path) -> None:
    old = gpu_record(*gpu_rows(1.0, 64, 512), minute=11, commit="aaaaaaa")
    new = gpu_record(*gpu_rows(0.5, 64), minute=12, commit="bbbbbbb")
    other = gpu_record(*gpu_rows(0.1, 512), minute=10, commit="ccccccc", torch="2.9.0")
    old["calibration"] = {"measured": {"cluster_exchange": 200.0, "clock": 1.5e9}}
    new["calibration"] = {"measured": {"cluster_exchange": 300.0, "clock": 1.9e9}}
    for one in (old, new, other):
        records.write(one, tmp_path)
    (shown,) = pages.newest(tmp_path).values()
    assert shown["commits"] == ["aaaaaaa", "bbbbbbb"]
    assert len(shown["rows"]) == len(old["rows"])
    for row in shown["rows"]:
        small = row["work"]["H"] == 64
        assert row["commit"] == ("bbbbbbb" if small else "aaaaaaa")
        # `auto` takes Triton's rows where the batch fits, and otherwise CUDA's choice.
        layer = "fastrnn.triton" if small else "fastrnn.cuda"
        kernel = "triton.rows" if small else "cuda.grid"
        assert row["auto"] == (kernel if row["scope"] == "kernel" else layer)
    rates = gpu_roofline.best_of("NVIDIA H200", [old["calibration"], new["calibration"]])
    assert rates is not None
    assert (rates.cluster_exchange, rates.clock) == (200.0, 1.9e9)
    first = shown["rows"][0]
    assert first["floor"] == records.bounds(records.case(first), rates)
    line = tables.line(first)
    assert line is not None
    assert (line.ours, line.ms, line.ratio) == ("fastrnn.triton", 1.0, 3.0)


def test_ours_is_the_backend_that_auto_takes() -> None:
    """The time of another backend never replaces it. A time measured as `auto` counts itself."""
    row = gpu_rows(1.0, 64)[0]
    machine = gpu_record(minute=10)["machine"]
    assert gpu.auto(row, machine) == "fastrnn.triton"
    assert gpu.auto(row, {**machine, "capability": [8, 0]}) is None
    assert gpu.auto(row, {**machine, "gpu": "another"}) is None
    half = {**row, "mode": "float16", "work": {**row["work"], "H": 256}}
    assert gpu.auto(half, machine) == "fastrnn.triton"
    assert gpu.auto(half, {**machine, "triton": None}) == "fastrnn.cuda"
    many = {**row, "work": {**row["work"], "B": 1000}}
    assert gpu.auto(many, machine) == "fastrnn.cuda"
    row["auto"] = "fastrnn.triton"
    del row["times"]["fastrnn.triton"]
    assert tables.line(row) is None
    row["times"]["fastrnn"] = row["times"]["fastrnn.cuda"]
    assert gpu.auto(row, machine) is None


@pytest.mark.parametrize(
    ("shape", "mode", "step", "algorithm"),
    [
        (Shape(9, 16, 8, 256), "float32", "training", "PERSIST_STATIC_SMALL_H"),
        (Shape(9, 16, 8, 256, packed=True), "float16", "training", "STANDARD"),
        (Shape(9, 16, 8, 384), "tf32", "inference", "PERSIST_STATIC_SMALL_H, H > 256"),
        (Shape(9, 16, 8, 384), "tf32", "training", "PERSIST_STATIC_SMALL_H, then STANDARD"),
        (Shape(9, 16, 128, 512), "float16", "training", "PERSIST_STATIC"),
        (Shape(9, 16, 128, 512), "float32", "training", "STANDARD"),
        (Shape(9, 12, 128, 512), "float16", "training", "STANDARD"),
        (Shape(9, 16, 64, 512), "float16", "training", "STANDARD"),
        (Shape(9, 96, 128, 896), "float16", "training", "STANDARD"),
        (Shape(9, 16, 128, 512, layers=2), "float16", "training", "STANDARD"),
        (Shape(9, 16, 64, 64), "bfloat16", "training", "bfloat16"),
    ],
)
def test_algorithm_requested_from_cudnn(shape: Shape, mode: str, step: str, algorithm: str) -> None:
    row = {"scope": "layer", "work": shape.to_json(), "mode": mode, "step": step}
    assert gpu.requested(row) == algorithm
    # For the recurrence alone nn.RNN runs a layer of one feature.
    if algorithm == "PERSIST_STATIC":
        assert gpu.requested({**row, "scope": "recurrence"}) == "STANDARD"


@pytest.mark.slow
def test_report_of_a_gpu(tmp_path: Path, repository: Path) -> None:
    shapes = 64, 128, 256, 512
    old = gpu_record(*gpu_rows(1.0, *shapes), minute=10, commit="aaaaaaa")
    short = gpu_rows(4.0, 64, steps=100)
    wide = [row for size in (256, 512, 1024) for row in gpu_rows(1.0, size, steps=512)]
    for row in wide:
        row["work"]["B"] = 64
    new = gpu_record(*gpu_rows(0.5, 128), *short, *wide, minute=11, commit="bbbbbbb")
    for one in (old, new):
        records.write(one, tmp_path / "results")
    pages.write(pages.newest(tmp_path / "results"), repository)
    text = (repository / "docs/benchmarks.md").read_text()
    assert "cuDNN 9.19.0" in text
    assert "marked †, are from bbbbbbb" in text
    assert "| PERSIST_STATIC_SMALL_H | ≤ 100 | float32 | 1 | **0.75×** |" in text
    full_page = (repository / "docs/benchmarks/nvidia-h200.md").read_text()
    assert "| (1000, 16, 128, 128) † | inference | triton | 1.00 |" in full_page
    assert "| (1000, 16, 64, 64) | inference | triton | 2.00 |" in full_page
    assert "| **1.00** | 2.00 \\* | – |" not in full_page
    names = {"gpu-ratios", "gpu-width"}
    made = {path.name for path in figures_of(repository, "nvidia-h200")}
    assert made == {f"{name}{dark}.png" for name in names for dark in ("", "-dark")}
    # One of the shapes of GPU notes was measured, in float16.
    block = (repository / "docs/gpu-notes.md").read_text()
    assert "| (512, 64, 512, 512) | float16 | 1.00 | 3.00 | **3.00×** |" in block
    assert "torch 2.13.0, cuDNN 9.19.0" in block
    assert "(./benchmarks/nvidia-h200.md)" in block
    assert "\n| the same, T ≤ 100 | **0.75×** | **0.75×** |\n" in block
    assert "nn.RNN is faster in 4 of " in block
    assert ", all with H ≤ 64. 4 of these have at most 100 steps" in block
    assert block.endswith("<!-- gpu: end -->\nafter\n")
    assert "|" not in (repository / "README.md").read_text()


def test_report_of_a_few_cases_of_a_gpu(tmp_path: Path, repository: Path) -> None:
    kernel = Case("cudnn", "kernel", Shape(1000, 8, 64, 64), "bfloat16", "forward")
    times = {"cuda.cluster": Times((0.5,)), "triton.rows": Times((2.0,))}
    layer = Case("cudnn", "layer", Shape(1000, 8, 64, 64), "bfloat16", "training")
    both = {"fastrnn.cuda": Times((2.0,)), "nn.RNN": Times((1.0,))}
    rows = [
        records.row(CaseResult(case, times=t), H200) for case, t in ((kernel, times), (layer, both))
    ]
    rows[0]["choices"] = {name: {"chosen": True} for name in times}
    del rows[1]["times"]["fastrnn.cuda"]
    rows[1]["times"]["fastrnn.triton"] = {"ms": [2.0] * 4, "turns": 1, "over": {}}
    rows[1]["times"]["nn.RNN"]["over"] = {"fastrnn.triton": 0.5}
    records.write(gpu_record(*rows, minute=10), tmp_path / "results")
    (name,) = found = pages.newest(tmp_path / "results")
    assert name == "nvidia-h200"
    pages.write(found, repository)
    text = (repository / "docs/benchmarks.md").read_text()
    assert "## NVIDIA H200\n" in text
    assert "A baseline is faster in 1 of 1 cases" in text
    assert "Growth" not in text
    full_page = (repository / "docs/benchmarks/nvidia-h200.md").read_text()
    assert "| (1000, 8, 64, 64) | bfloat16 | forward | " in full_page
    assert " | 2.00 \\* | **0.500** |" in full_page
    assert "It is the fastest in 0 of 1 rows. It takes 4.00 times as long" in full_page


def test_no_record_no_report(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="make bench-full"):
        pages.write({}, tmp_path)


def test_readme_shows_the_cpu_with_the_newest_record() -> None:
    old, new = full(), full()
    new["machine"]["date"] = "2031-01-02T03:04+00:00"
    assert readme.newest_cpu({"old": old, "new": new}) == "new"
    assert readme.newest_cpu({"gpu": gpu_record(minute=10)}) is None


def test_document_without_markers_is_unchanged(tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text("all by hand\n")
    with pytest.raises(SystemExit, match="needs the lines <!-- benchmarks: begin -->"):
        replace(document, "benchmarks", "table")
    assert document.read_text() == "all by hand\n"
