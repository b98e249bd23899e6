"""Matrix products with what follows them, in the precision they are computed in."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]
# PyTorch's own name of oneDNN's product with bias and activation, which its compiler uses as well. Where it
# is missing, plain products give the same numbers later.
_FUSED_NAME = "_linear_pointwise"
_CHECK_SHAPE = (4, 8)


class Product:
    """`x @ weight.T + bias`, then an activation.

    Args:
        weight: `(out, in)`.
        bias: `(out,)`.
        dtype: Precision of the product.
        activation: "none", "relu" or "gelu".
    """

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype, activation: str = "none") -> None:
        self.weight = weight.detach().to(dtype).contiguous()
        self.bias = bias.detach().to(dtype).contiguous()
        self.activation = activation

    @classmethod
    def of(cls, layer: nn.Linear | nn.Conv2d, dtype: torch.dtype, activation: str = "none") -> Product:
        """Take over a layer; a convolution must be of single pixels."""
        weight = layer.weight.flatten(1)
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias
        return cls(weight, bias, dtype, activation)

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply `(..., in)`; the result has the product's precision."""
        return multiply(x.to(self.weight.dtype), self.weight, self.bias, self.activation)


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """`x @ weight.T`, plus bias and activation; all of one precision."""
    if x.device.type == "cpu" and has_fused_products(x.dtype):
        return _multiply_fused(x, weight, bias, activation)
    return _activate(F.linear(x, weight, bias), activation)


def has_fused_products(dtype: torch.dtype) -> bool:
    """Whether this processor and PyTorch have oneDNN's fused products, and they are right."""
    if dtype not in _known:
        _known[dtype] = _check(dtype)
    return _known[dtype]


_known: dict[torch.dtype, bool] = {}


def _multiply_fused(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    algorithm = "none" if activation == "gelu" else ""
    result: Tensor = getattr(torch.ops.mkldnn, _FUSED_NAME)(x, weight, bias, activation, [], algorithm)
    return result


def _check(dtype: torch.dtype) -> bool:
    if not hasattr(torch.ops.mkldnn, _FUSED_NAME):
        return False
    rows, columns = _CHECK_SHAPE
    x = torch.linspace(-1, 1, rows * columns).view(rows, columns).to(dtype)
    weight, bias = x.flip(0, 1).contiguous(), x[:, 0].contiguous()
    try:
        found = _multiply_fused(x, weight, bias, "gelu")
    except (RuntimeError, TypeError):
        return False
    expected = F.gelu(F.linear(x.float(), weight.float(), bias.float()))
    return torch.allclose(found.float(), expected, atol=4 * torch.finfo(dtype).eps)


def _activate(x: Tensor, activation: str) -> Tensor:
    if activation == "relu":
        return F.relu(x)
    return F.gelu(x) if activation == "gelu" else x


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention on `(B, heads, N, d)`, with a bias added to the logits.

    PyTorch's fused kernel is no faster in bfloat16 than in float32 on a CPU, where plain products take half
    the time.
    """
    if q.device.type != "cpu" or q.dtype == torch.float32:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(dim=-1) @ v
