"""The table that compares the cells."""

from benchmarks.report import cells, pages, records
from benchmarks.runner import CaseResult
from benchmarks.shapes import Case, Shape
from benchmarks.timing import Times

from .factories import record


def row_of(group: str, shape: Shape, step: str, **times: float) -> records.Row:
    made = {name.replace("_", " "): Times((ms, ms)) for name, ms in times.items()}
    made = {name.replace("nn ", "nn."): one for name, one in made.items()}
    return records.row(CaseResult(Case(group, "layer", shape, "float32", step), times=made))


def test_table_of_the_cells() -> None:
    lstm, gru = ([Shape(8, B, 16, 16, cell=cell) for B in (1, 2)] for cell in ("lstm", "gru"))
    rows = [row_of("rnn", Shape(8, 1, 16, 16), "inference", fastrnn=1, nn_RNN=3)]
    assert cells.by_cell(rows) == []  # as in records without the other cells
    rows += [
        row_of("lstm", lstm[0], "inference", fastrnn=1, nn_LSTM=8, openvino=2, jax_scan=4),
        row_of("lstm", lstm[1], "inference", fastrnn=4, nn_LSTM=8, openvino=2, jax_scan=4),
        row_of("mixed-lstm", lstm[0], "inference", fastrnn=1, nn_LSTM=99),  # counts once
        row_of("lstm", lstm[0], "training", fastrnn=1, nn_LSTM=5, jax_scan=3),
        row_of("gru", gru[0], "training", fastrnn=1, nn_GRU=5, jax_scan=6),
        row_of("grid", gru[1], "training", fastrnn=9, nn_GRU=5),  # not of the groups
    ]
    head, *_, of_rnn, of_lstm, of_gru = cells.by_cell(rows)
    assert "lstm, gru, mixed, mixed-lstm, mixed-gru" in head
    assert of_rnn.startswith("| nn.RNN | float32 | 1 / 0 | 3.00× / – |")
    assert of_lstm == (
        "| nn.LSTM | float32 | 2 / 1 | 4.00× / 5.00× | 1.00× / 3.00× | **0.50×** / 3.00× | 1 / 0 | "
        "– / – | openvino (2 of 2) / jax scan (1 of 1) |"
    )
    assert of_gru.endswith("| – / nn.GRU (1 of 1) |")
    # The slower case is listed with the name of its cell and of the baseline.
    (lost,) = pages.where_losing(rows[:-1])[-1:]
    assert lost.startswith("| (8, 2, 16, 16) lstm | layer | float32 | inference | openvino |")
    assert "### Cells" in pages.machine_summary(record(*rows), [], "full.md")
