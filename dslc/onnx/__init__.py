"""ONNX models in (as source text and weights) and out."""
