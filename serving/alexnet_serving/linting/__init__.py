"""Compare a repository with the export that it was written from."""
