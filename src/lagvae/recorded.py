"""A training step as a CUDA graph, which a GPU replays as a whole instead of waiting for Python to start each operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

Compute = Callable[..., tuple[Sequence[Tensor], Tensor]]
"""Tensors → what is to be returned, and the loss."""


def gradients(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
    """The gradients of a loss, in memory as the parameters are: a fused optimizer goes through both in the same order."""
    return [
        g if g is None or g.stride() == p.stride() else torch.empty_like(p).copy_(g)
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True)
    ]


class RecordedStep:
    """The forward and backward pass of a step, recorded once as a CUDA graph and replayed for other inputs.

    A step of a model here is several hundred small operations, and a GPU computes most of them in less time than Python
    takes to start them. A replay starts all of them at once and computes the same numbers.

    Args:
        compute: inputs → (outputs, loss). It reads tensors that keep their memory, such as parameters and buffers, and no value
            of a tensor in Python. It is called once, after a few calls outside, in which libraries allocate what they need.
        parameters: those whose `grad` becomes the gradient of the loss.
        inputs: an example of the inputs; the others have its shapes.

    Raises: RuntimeError where an operation cannot be recorded.
    """

    def __init__(self, compute: Compute, parameters: Sequence[nn.Parameter], inputs: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self.inputs = [t.clone() for t in inputs]
        self.graph = torch.cuda.CUDAGraph()
        # A cast of a weight that autocast keeps from an earlier operation would be left out of the recording.
        dtype, casts = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
        autocast = torch.autocast("cuda", dtype, cache_enabled=False) if casts else nullcontext()
        device = self.inputs[0].device
        before = torch.cuda.current_stream(device)
        try:
            with torch.cuda.graph(self.graph, stream=torch.cuda.Stream(device), capture_error_mode="thread_local"), autocast:
                self.outputs, loss = compute(*self.inputs)
                self.gradients = gradients(loss, self.parameters)
        except BaseException:
            torch.cuda.set_stream(before)
            raise

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs for some inputs; the gradients are in `grad` of the parameters, until the next call."""
        for own, new in zip(self.inputs, inputs, strict=True):
            own.copy_(new)
        self.graph.replay()
        for p, g in zip(self.parameters, self.gradients, strict=True):
            p.grad = g
        return [t.detach().clone() for t in self.outputs]
