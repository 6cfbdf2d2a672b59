"""Loads on a server: closed and open loops over the Transport seam, in worker processes, judged."""
