"""Generate load on a server and measure it: `run.bench_load` does all of it, `plans` describes a load."""
