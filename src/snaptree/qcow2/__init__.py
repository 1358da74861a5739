"""Reading qcow2 images: header, snapshot table, VM state.  Not for: writing them, and it needs no QEMU."""
