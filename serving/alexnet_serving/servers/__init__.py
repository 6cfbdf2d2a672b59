"""Start, monitor and stop Triton: embedded in this machine's Python, or in Docker."""
