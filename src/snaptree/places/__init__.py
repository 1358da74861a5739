"""Where things lie: the home of all VMs, their sockets, and who holds a VM now."""
