"""`fastrnn demo`: synthetic tasks."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from . import options as flags


class Probe(str, Enum):
    """The names of demo.DEMOS."""

    cued_recall = "cued-recall"
    claim_check = "claim-check"
    noisy_digit = "noisy-digit"
    spoken_claim = "spoken-claim"
    article = "article"


def demo(
    name: Annotated[Probe, typer.Argument(help="The demo to run.")] = Probe.cued_recall,
    out: flags.Out = None,
    seed: Annotated[
        int,
        typer.Option(min=0, help="Seed of the data, the split, the weights and the order of rows."),
    ] = 0,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also profile a training step.")
    ] = False,
    threads: Annotated[
        int,
        typer.Option(
            min=1, max=1024, help="CPU threads; more do not help with tensors this small."
        ),
    ] = 1,
) -> None:
    """Generate a synthetic task as PNG and WAV files, train on it, and compare with baselines.

    cued-recall: sequences of digits and tones; needs both modalities, and memory. claim-check: a
    digit and a sentence about it; needs both. noisy-digit: a noisy image and a noisy recording of
    a digit; both together are better than one. spoken-claim: claims about spoken digits, learned
    by transfer from claim-check. article: the network of the article that this package started
    from, compared with the other fusion modes.
    """
    from ..demos import run_demo

    flags.set_threads(threads)
    run_demo(name.value, out or flags.new_folder(name.value), seed, profile=profile)
