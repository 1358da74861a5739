"""Snapshot, Tree, names, ids, tags, errors: pure data, no I/O."""
