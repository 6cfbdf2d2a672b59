"""Python-based backends: a folder for each, copied into Triton's backend directory with the shared file."""
