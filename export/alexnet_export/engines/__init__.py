"""ONNX to engines: builders, compilers, passports and runners for TensorRT and TensorRT-RTX.

`options` is light; the rest needs TensorRT, TensorRT-RTX or Docker when it is used.
"""

__all__: list[str] = []
