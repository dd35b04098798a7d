"""Trained networks as files that other programs run: ONNX, PyTorch's exported programs, ExecuTorch, plain Python."""
