"""A network as ONNX files that other programs can chain, and the same files through ONNX Runtime."""
