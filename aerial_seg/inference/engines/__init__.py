"""Engines that run a trained network: eager, compiled, ONNX Runtime, OpenVINO, and how it is prepared for them."""
