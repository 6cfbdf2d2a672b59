"""Engines in process: every runner of this machine x precision x batch, against the limits of its device.

`running` is the whole of it. `choosing` says which engines there are and why others are not. `ladder` has
them measured in turn, each in a process of its own: `process` on this side; `worker`, `hosting`, `opening`,
`calls` and `memory` on the other. `counting`, `ceilings` and `roofline` say how fast they could be; `rows`
puts all of it together.
"""

__all__: list[str] = []
