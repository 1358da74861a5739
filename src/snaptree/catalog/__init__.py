"""SQLite: schema, snapshots, history, journal; and the lineage file beside it."""
