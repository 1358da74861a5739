"""Create, load, delete, rename as transactions over everything below; preflight and recovery."""
