"""A network that computes its heavy parts faster, and once what stays the same from slice to slice."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from medsam2.inference.fast.products import Product, attend, multiply
from medsam2.inference.fast.trunk import FastEncoder
from medsam2.model.config import MEMORY_DIM
from medsam2.model.layers import RotaryAttention
from medsam2.model.memory import POSITION_WEIGHT, MemoryAttentionLayer
from medsam2.model.network import ImageFeatures, MemoryTokens, Network

QUERIES = 256  # at a time: their logits over seven memories stay in the cache
MAX_KEPT = 32  # memories whose keys are kept; those of the official network take 4 MB each in float32


class FastMemoryAttention:
    """`Network.attend_memory` where there is memory."""

    def __init__(self, network: Network, dtype: torch.dtype) -> None:
        self.network = network
        self.dtype = dtype
        attention = network.memory_attention
        self.place = POSITION_WEIGHT * network.feature_position.flatten(1).T
        layers = cast("list[MemoryAttentionLayer]", list(attention.layers))
        self.layers = [_FastLayer(layer, network, dtype) for layer in layers]
        self.norm: nn.LayerNorm = attention.norm
        # Keys go when their memory goes.
        self._keys: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def __call__(self, features: ImageFeatures, memory: MemoryTokens) -> Tensor:
        """Condition a slice on memory, `(B, C, S/16, S/16)`."""
        level2 = features.level2
        x = level2.float().flatten(2).transpose(1, 2) + self.place
        stored = [self._project(spatial) for spatial in memory.spatial]
        pointers, pointer_keys = self._pointer_tokens(memory)
        values = torch.cat([*(m.flatten(2).transpose(1, 2) for m in memory.spatial), *pointers], dim=1)
        values = values.to(self.dtype).transpose(1, 2).contiguous()
        for index, layer in enumerate(self.layers):
            keys = [
                keys[index] + layer.code_keys[code] for keys, code in zip(stored, memory.codes, strict=True)
            ]
            keys += [layer.key(tokens) for tokens in pointer_keys]
            x = layer(x, torch.cat(keys, dim=1), values)
        return self.norm(x).transpose(1, 2).unflatten(2, level2.shape[-2:])

    def _project(self, spatial: Tensor) -> list[Tensor]:
        """Keys of a memory in every layer, without its temporal code."""
        if spatial not in self._keys:
            tokens = spatial.float().flatten(2).transpose(1, 2) + self.network.memory_position.flatten(1).T
            while len(self._keys) >= MAX_KEPT:
                del self._keys[next(iter(self._keys))]  # the oldest
            self._keys[spatial] = [layer.turned_key(tokens) for layer in self.layers]
        return self._keys[spatial]

    def _pointer_tokens(self, memory: MemoryTokens) -> tuple[list[Tensor], list[Tensor]]:
        """Object pointers as values and, with their distances, as what keys are made of; lists of 0 or 1."""
        if not memory.pointers:
            return [], []
        pointers = torch.stack(tuple(memory.pointers), dim=1).float()  # (B, P, C)
        parts = pointers.shape[2] // MEMORY_DIM
        tokens = pointers.unflatten(2, (parts, MEMORY_DIM)).flatten(1, 2)
        distances = torch.tensor(memory.distances, dtype=torch.float32, device=tokens.device)
        times = self.network.pointer_position(distances).float()
        return [tokens], [tokens + times.repeat_interleave(parts, dim=0)]


class _FastLayer:
    """`MemoryAttentionLayer`, whose keys come projected and whose values come as they were stored."""

    def __init__(self, layer: MemoryAttentionLayer, network: Network, dtype: torch.dtype) -> None:
        own, cross = layer.self_attn, layer.cross_attn_image
        self.layer = layer
        self.dtype = dtype
        self.cos, self.sin = own.cos, own.sin
        self.own_qk, self.own_v = _queries_and_keys(own, dtype), Product.of(own.v_proj, dtype)
        self.own_out = Product.of(own.out_proj, dtype)
        self.query = _halves(cross.q_proj, dtype)
        self.key = _halves(cross.k_proj, dtype)
        self.out = _through(cross, dtype)
        self.widen, self.narrow = Product.of(layer.linear1, dtype, "relu"), Product.of(layer.linear2, dtype)
        codes = network.maskmem_tpos_enc.detach()[:, 0, 0]  # (7, 64)
        turned = codes.to(dtype) @ self.key.weight.T
        self.code_keys = turn(turned[:, None].expand(-1, len(self.cos), -1), self.cos, self.sin)

    def turned_key(self, tokens: Tensor) -> Tensor:
        """Keys `(B, N, C)` of the tokens `(B, N, 64)` of one grid."""
        return turn(self.key(tokens), self.cos, self.sin)

    def __call__(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        y = self.layer.norm1(x)
        q, k = (turn(t, self.cos, self.sin) for t in self.own_qk(y).chunk(2, dim=-1))
        attended = attend(q[:, None], k[:, None], self.own_v(y)[:, None])[:, 0]
        x = x + self.own_out(attended)
        q = turn(self.query(self.layer.norm2(x)), self.cos, self.sin)
        x = x + self.out(_attend_long(q, keys, values))
        return x + self.narrow(self.widen(self.layer.norm3(x)))


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate `(B, N, C)` whose pairs are split: their first halves, then their second ones."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1).to(x.dtype)


def _attend_long(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention from `(B, N, C)` to many keys `(B, M, C)` with narrow values `(B, 64, M)`."""
    q = q * q.shape[-1] ** -0.5
    return torch.stack([_attend_one(*item) for item in zip(q, keys, values, strict=True)])


def _attend_one(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    rows = []
    for queries in q.split(QUERIES):
        weights = multiply(queries, keys).softmax(dim=-1)
        rows.append(multiply(weights, values))
    return torch.cat(rows)


def _halves(layer: nn.Linear, dtype: torch.dtype) -> Product:
    """A projection whose channel pairs are split into halves; queries and keys alike keep their products."""
    order = _split_order(layer.out_features)
    return Product(layer.weight[order], layer.bias[order], dtype)


def _queries_and_keys(attention: RotaryAttention, dtype: torch.dtype) -> Product:
    layers = (attention.q_proj, attention.k_proj)
    order = _split_order(attention.q_proj.out_features)
    weight = torch.cat([layer.weight[order] for layer in layers])
    return Product(weight, torch.cat([layer.bias[order] for layer in layers]), dtype)


def _split_order(channels: int) -> Tensor:
    return torch.arange(channels).unflatten(0, (-1, 2)).T.flatten()


def _through(attention: RotaryAttention, dtype: torch.dtype) -> Product:
    """The projections of values and of the result as one."""
    value, out = attention.v_proj, attention.out_proj
    inner, outer = value.weight.detach().double(), out.weight.detach().double()
    bias = outer @ value.bias.detach().double() + out.bias.detach().double()
    return Product((outer @ inner).float(), bias.float(), dtype)


class FastNetwork(Network):
    """`network` with its weights, whose image encoder and memory attention are rearranged for inference.

    What is small, prompts, masks and the encoding of memories, is computed as before, in float32.

    Args:
        network: Shared, not copied; changing its weights afterwards changes only a part of the results.
        dtype: Precision of the heavy parts' products.
    """

    def __init__(self, network: Network, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)  # the parts are those of `network`: none are to be made
        self.config = network.config
        for name, module in network.named_children():
            self.add_module(name, module)
        for name, parameter in network.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in network.named_buffers(recurse=False):
            self.register_buffer(name, buffer, persistent=False)
        with torch.no_grad():
            self._encode = FastEncoder(network, dtype)
            self._attend = FastMemoryAttention(network, dtype)

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Encode normalised images `(B, 3, S, S)`."""
        return self._encode(images)

    def attend_memory(self, features: ImageFeatures, memory: MemoryTokens | None) -> Tensor:
        """Condition a slice on memory, or mark that it has none; `(B, C, S/16, S/16)`."""
        if memory is None:
            return super().attend_memory(features, None)
        return self._attend(features, memory)
