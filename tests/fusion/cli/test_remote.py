"""The commands with shards and with URLs."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pytest

from fastrnn.fusion import cli
from fastrnn.fusion.cli.options import location
from fastrnn.fusion.data.storage import RemotePath
from tests.fusion.cli.test_cli import TINY, fit, lines, refusal
from tests.fusion.data.test_webdataset import pack


@pytest.mark.slow
def test_a_run_on_shards_predicts_a_remote_table(rows, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    members: dict[str, bytes | str] = {}
    for number, row in enumerate(rows):
        members |= {
            f"{number}.png": (tmp_path / row["image"]).read_bytes(),
            f"{number}.txt": row["text"],
            f"{number}.cls": row["label"],
        }
    pack(tmp_path / "pets-00.tar", members)
    assert cli.main(["fit", "pets-{00..00}.tar", "--yes", "--no-baselines", *TINY]) == 0
    run = Path("runs/pets")
    assert json.loads((run / "config.json").read_text())["manifest"].endswith("pets-{00..00}.tar")
    assert cli.main(["evaluate", str(run)]) == 0

    store = fsspec.filesystem("memory")
    for number in range(3):
        store.pipe(f"memory://pets/{number}.png", (tmp_path / f"{number}.png").read_bytes())
    table = "".join(f"{n}.png,{row['text']}\n" for n, row in enumerate(rows[:3]))
    store.pipe("memory://tables/new.csv", f"image,text\n{table}".encode())
    source = ["memory://tables/new.csv", "--root", "memory://pets"]
    assert cli.main(["predict", str(run), *source, "-o", "remote.jsonl"]) == 0
    assert cli.main(["predict", str(run), "pets-00.tar", "-o", "shards.jsonl"]) == 0
    one, other = (lines(tmp_path / f"{name}.jsonl") for name in ("remote", "shards"))
    for remote, packed in zip(one, other[:3], strict=True):
        # Another padding may change the order of sums: 100 roundings.
        assert remote["probabilities"] == pytest.approx(packed["probabilities"], rel=100 * 2**-24)


@pytest.mark.slow
def test_a_remote_table_is_named_in_the_run(rows, tmp_path, capsys):
    store = fsspec.filesystem("memory")
    table = "".join(json.dumps({"text": row["text"], "label": row["label"]}) + "\n" for row in rows)
    store.pipe("memory://tables/rows.jsonl", table.encode())
    run = tmp_path / "run"
    assert fit("memory://tables/rows.jsonl", run, "--no-baselines") == 0
    config = json.loads((run / "config.json").read_text())
    assert (config["manifest"], config["root"]) == ("memory://tables/rows.jsonl", "memory://tables")
    assert cli.main(["evaluate", str(run)]) == 0
    store.rm("memory://tables", recursive=True)
    assert "no longer exists" in refusal(["evaluate", str(run)], capsys)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit", "ftp://h/a.csv"], "the protocol 'ftp' cannot be read"),
        (["fit", "memory://gone/a.csv"], "memory://gone/a.csv: no such file"),
        (["fit", "a.csv", "--root", "zip://a"], "the protocol 'zip' cannot be read"),
        (["fit", "a.csv", "--output-dir", "s3://b/run"], "s3://b/run is a URL; only the table"),
    ],
)
def test_urls_that_cannot_be_used(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("text,label\na,b\n")
    assert said in refusal(arguments, capsys)
    assert [each.name for each in tmp_path.iterdir()] == ["a.csv"]


def test_locations():
    assert isinstance(location("s3://bucket/a.csv"), RemotePath)
    assert location("file:///a.csv") == location("/a.csv") == Path("/a.csv")
