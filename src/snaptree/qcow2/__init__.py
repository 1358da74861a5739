"""Reading qcow2 images, and the bytes of new ones.  Not for: changing an image that is there, and no QEMU is needed."""
