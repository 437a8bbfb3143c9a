"""From a checkpoint to a bundle: class matrix, ONNX graphs, and the proof that they agree with PyTorch."""
