"""The operator's schema, written once: the public op and every backend's own op share it."""

from __future__ import annotations

import torch

#: The library every operator of ours is defined in; it must outlive them all.
LIBRARY = torch.library.Library("fastrnn", "DEF")

FORWARD = (
    "(Tensor pre, Tensor weight_hh, Tensor h0, Tensor? lengths, Tensor? offsets, "
    "str activation, int reverse_from) -> (Tensor out, Tensor h_n)"
)
BACKWARD = (
    "(Tensor grad_out, Tensor grad_h_n, Tensor out, Tensor weight_hh, Tensor h0, "
    "Tensor? lengths, Tensor? offsets, str activation, int reverse_from) "
    "-> (Tensor grad_pre, Tensor grad_h0)"
)


def define(name: str) -> None:
    """Define ``fastrnn::name`` and ``fastrnn::name_backward``, without implementations."""
    LIBRARY.define(name + FORWARD, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.define(name + "_backward" + BACKWARD, tags=(torch.Tag.pt2_compliant_tag,))
