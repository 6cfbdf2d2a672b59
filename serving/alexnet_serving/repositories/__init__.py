"""The Triton model repository: what it holds, how it is written, and how it is read back."""
