"""Files of one JSON object a line, which processes may be cut off in."""

from pathlib import Path

from benchmarks.jsonl import append, read


def test_a_line_cut_off_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "j"
    append(path, event="first")
    with path.open("a") as file:
        file.write('\n{"event": "sec')
    append(path, event="third")
    assert [entry["event"] for entry in read(path)] == ["first", "third"]
