"""The weights of a graph as safetensors, for programs that compute the network themselves."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["tensors_of"]


def tensors_of(graph: bytes, metadata: Mapping[str, str] | None = None) -> bytes:
    """A file in the format ``safetensors`` with the weights of a serialised ONNX graph, by their names there."""
    import onnx
    from safetensors.numpy import save

    tensors = {
        tensor.name: onnx.numpy_helper.to_array(tensor).copy()
        for tensor in onnx.load_from_string(graph).graph.initializer
    }
    return save(tensors, dict(metadata) if metadata else None)
