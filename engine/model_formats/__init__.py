"""Formats of model files: one file a format, which all others find in `engine.model_formats.table`.

A format writes a file, reads its metadata, and opens it again. Nothing here knows how a detector is
trained, validated or compared with PyTorch; that is `engine.detect` and `engine.export`.
Imports errors and files alone, and torch, onnx and others only where a file is written or opened:
the configuration and the help text read the table.
"""
