"""A model in one file and back: the .ecqx file, ONNX, checkpoints."""
