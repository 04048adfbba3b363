"""From ONNX to `.dl`: `importing.py` begins it."""
