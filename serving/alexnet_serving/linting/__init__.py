"""Is a repository what was exported? Every file is held against the record."""
