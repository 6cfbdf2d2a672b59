"""The front door: parses, calls one verb, prints."""
