"""Write a network as ONNX files with a description of how to chain them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from medsam2.errors import InputError, require
from medsam2.imaging.replacing import filling
from medsam2.inference.onnx import compact_parts, official_parts
from medsam2.inference.onnx.chain import Chain, Origin, Part, Value, write_chain
from medsam2.model.compact.network import CompactNetwork
from medsam2.model.network import Network

if TYPE_CHECKING:
    import numpy as np
    import onnx

OPSET = 18
"""Of the ONNX standard: ONNX Runtime reads it since 1.14, in browsers too."""
STORED_AS = ("float32", "float16")
"""How weights are stored; they are computed with in float32."""
LEAST_NUMBERS = 64  # a tensor with fewer saves nothing

_DTYPES = {"float32": torch.float32, "int32": torch.int32, "bool": torch.bool}
# Examples of free dimensions: different ones, and neither 0 nor 1, so that none is taken as fixed.
_SIZES = {"batch": 2, "points": 3, "tokens": 4, "memories": 5, "pointers": 6, "rows": 24, "columns": 40}


class _Traced(nn.Module):
    """What a part computes, as the exporter wants it."""

    def __init__(self, network: nn.Module, compute: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network
        self.compute = compute

    def forward(self, *tensors: Tensor) -> Any:
        return self.compute(self.network, *tensors)


def chain_of(network: Network | CompactNetwork) -> Chain:
    """Say which parts a network has."""
    if isinstance(network, CompactNetwork):
        return compact_parts.compact_chain(network.config)
    return official_parts.official_chain(network.config)


def export_network(
    network: Network | CompactNetwork, folder: Path, *, origin: Origin, stored_as: str = "float32"
) -> Iterator[str]:
    """Write the parts of a network and `chain.json` into a new folder.

    Args:
        network: In float32 on the CPU.
        folder: New, or empty.
        origin: Where the weights come from.
        stored_as: One of `STORED_AS`; float16 halves the files, and rounds weights that are no such numbers.

    Yields:
        The name of each part when it is written.

    Raises:
        InputError: The folder cannot be made, or the extra `onnx` is not installed.
    """
    if stored_as not in STORED_AS:
        raise InputError(f"weights are stored as {' or '.join(STORED_AS)}, not {stored_as!r}")
    for package in ("onnx", "onnxscript"):
        require(package, "an export to ONNX needs the package", "onnx")
    chain = chain_of(network)
    computes = official_parts.COMPUTES if isinstance(network, Network) else compact_parts.COMPUTES
    with filling(folder) as temporary:
        for part in chain.parts:
            write_part(part, network, computes[part.name], temporary / part.file, stored_as)
            yield part.name
        write_chain(chain, temporary, origin=origin, precision=stored_as, opset=OPSET)


def write_part(
    part: Part, network: nn.Module, compute: Callable[..., Any], path: Path, stored_as: str
) -> None:
    """Write one part."""
    import onnx

    dims = {name: torch.export.Dim(name) for name in _free(part.inputs)}
    axes = tuple(
        {axis: dims[size] for axis, size in enumerate(value.shape) if isinstance(size, str)}
        for value in part.inputs
    )
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            _Traced(network, compute).eval(),
            tuple(_example(value) for value in part.inputs),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=(axes,),
            input_names=[value.name for value in part.inputs],
            output_names=[value.name for value in part.outputs],
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _name_shapes(model, part)
    if stored_as == "float16":
        _halve(model, network)
    onnx.save(model, path)


def _free(values: Sequence[Value]) -> list[str]:
    return list(dict.fromkeys(size for value in values for size in value.shape if isinstance(size, str)))


def _example(value: Value) -> Tensor:
    sizes = [_SIZES[size] if isinstance(size, str) else size for size in value.shape]
    return torch.zeros(sizes, dtype=_DTYPES[value.dtype])


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells programmers about packages and names that are no concern of the user's."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _name_shapes(model: onnx.ModelProto, part: Part) -> None:
    """Give free dimensions our names, and drop what a file says about how it was made."""
    for value, declared in zip(part.inputs, model.graph.input, strict=True):
        assert declared.name == value.name
    for value, declared in zip(
        (*part.inputs, *part.outputs), (*model.graph.input, *model.graph.output), strict=True
    ):
        for size, dim in zip(value.shape, declared.type.tensor_type.shape.dim, strict=True):
            if isinstance(size, str):
                dim.dim_param = size
            else:
                assert dim.dim_value == size, f"{part.name}: {value.name} has {dim}, not {size}"
    for node in model.graph.node:
        del node.metadata_props[:]
    for declared in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del declared.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    del model.graph.value_info[:]
    model.doc_string = part.says


def _halve(model: onnx.ModelProto, network: nn.Module) -> None:
    """Store weights as float16, and bring them back to float32 where they are used.

    Tables of positions are no weights, and stay as they are unless float16 has all their numbers.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    # The exporter turns many weights over in advance and gives them other names: numbers tell them.
    weights = {turned.tobytes() for weight in network.parameters() for turned in _turned(weight)}
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            halved = values.astype(np.float16)
        is_exact = bool((halved.astype(np.float32) == values).all())
        if values.size < LEAST_NUMBERS or not (is_exact or values.tobytes() in weights):
            continue
        name, stored = tensor.name, f"{tensor.name}.float16"
        tensor.CopyFrom(numpy_helper.from_array(halved, stored))
        casts.append(helper.make_node("Cast", [stored], [name], name=f"{name}.float32", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _turned(weight: Tensor) -> Iterator[np.ndarray]:
    """A weight as it is and, if it is a matrix, turned over."""
    values = weight.detach().numpy()
    yield values
    if values.ndim == 2:
        yield values.T
