"""Triton itself, embedded or in Docker: started, watched, and gone without a trace."""
