"""From a program to an ONNX model: `exporting.py` begins it."""
