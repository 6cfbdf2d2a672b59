"""ONNX to TensorRT engines: built, inspected, given a passport, and run, so that the gate can judge them.

`options` and `inspecting` are light; the rest needs TensorRT, TensorRT-RTX or Docker, each where it is used.
"""

__all__: list[str] = []
