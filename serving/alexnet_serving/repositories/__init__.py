"""Write and read Triton model repositories."""
