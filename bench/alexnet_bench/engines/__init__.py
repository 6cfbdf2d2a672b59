"""Engine benchmark: time every runner of this machine, in process, for each precision and batch.

- `selection`: which engines of an export this machine can run, and why the others are left out.
- `timing`: load one engine and time its calls, with its memory.
- `process`: one engine, or the ceilings of one device, in a process of its own.
- `sweep`: all engines at all batches in alternating order.
- `roofline`, `ceilings`: the shortest call that the device allows.
- `benchmark`: the whole run, from an export's folder to a report.
"""

__all__: list[str] = []
