"""A QMP session to QEMU, jobs, block devices, blockers, launching."""
