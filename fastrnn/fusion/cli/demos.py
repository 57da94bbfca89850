"""`fastrnn demo`: the constructed probes."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from . import flags


class Probe(str, Enum):
    """The names of demo.DEMOS."""

    cued_recall = "cued-recall"
    claim_check = "claim-check"
    noisy_digit = "noisy-digit"
    spoken_claim = "spoken-claim"
    article = "article"


def demo(
    name: Annotated[Probe, typer.Argument(help="The probe.")] = Probe.cued_recall,
    out: flags.Out = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the data, the split, the weights, the order.")
    ] = 0,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also tell where a training step's time goes.")
    ] = False,
    threads: Annotated[
        int,
        typer.Option(
            min=1, max=1024, help="CPU threads; tensors this small gain nothing from more."
        ),
    ] = 1,
) -> None:
    """Write a probe's PNG and WAV files, train on them, and compare with baselines.

    cued-recall: digits and tones step by step; needs both, and memory. claim-check: a digit and a
    sentence about it; needs both. noisy-digit: a digit seen and heard, both badly; two are better
    than one. spoken-claim: claims about spoken digits, learned by transfer from claim-check.
    article: the network that the package began from, beside the other ways to fuse.
    """
    from ..demo import run_demo

    flags.set_threads(threads)
    run_demo(name.value, out or flags.new_folder(name.value), seed, profile=profile)
