"""What a run leaves behind: one JSON record, its tables, its page, and the comparison of two."""
