"""A network that computes its heavy parts faster."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medsam2.inference.fast.memory import FastMemoryAttention
from medsam2.inference.fast.trunk import FastEncoder
from medsam2.model.network import ImageFeatures, MemoryTokens, Network


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
