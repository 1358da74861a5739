"""The figures: ours beside QEMU's own, in one run on the same work.  Not for: passing or failing anything."""
