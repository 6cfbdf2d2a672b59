"""What Triton loads: a folder a backend, and the file they share. Each is copied into the server's own."""
