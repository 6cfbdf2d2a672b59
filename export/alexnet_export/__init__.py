"""Checkpoint to ONNX in FP32, FP16 and INT8, each proved to be the same model.

    from alexnet_export.pipeline import ExportOptions, export

Every module here but `statistics` needs the [export] extra, so nothing is imported until it is asked for.
"""

__all__: list[str] = []
