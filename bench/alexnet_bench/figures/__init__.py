"""What is made of measurements: percentiles, intervals and verdicts. Nothing here measures."""
