"""JSON Lines files of processes that may be killed."""

from pathlib import Path

from benchmarks.jsonl import append, read


def test_an_incomplete_line_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "j"
    append(path, event="first")
    with path.open("a") as file:
        file.write('\n{"event": "sec')
    append(path, event="third")
    assert [entry["event"] for entry in read(path)] == ["first", "third"]
