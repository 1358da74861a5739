"""The command line: one file per command; talks QMP to the supervisor, or reads the home of a VM that doesn't run."""
