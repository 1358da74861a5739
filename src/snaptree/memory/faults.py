"""How many page faults a process has had.  Not for: which pages they were for.

A page whose write is to be noted is mapped so that it cannot be written: the first write faults, whoever makes it on
behalf of the process (its threads, also inside of system calls; reads with O_DIRECT, which fault when they begin).
The kernel counts the fault for that thread (``mm_account_fault`` in mm/memory.c, since Linux 5.9), and io_uring's
workers are threads of the process too.  So where nothing was counted nothing was written; where something was, it may
have been for anything.

Not counted, and the page can be written without a fault afterwards: what another process writes through its address
space (process_vm_writev(2), /proc/PID/mem), and what KVM's kernel threads bring in for a guest that waits for a page
(asynchronous page faults).  vhost's workers may be the kernel's, too; they stand still with the VM.
"""

from __future__ import annotations

import os

# proc_pid_stat(5), counted behind the name, which may hold anything
_MINOR, _MAJOR = 7, 9
_ROOM = 4096


class Faults:
    """The counter of one process, open.

    :raises ProcessLookupError: on opening, where the process is gone.
    """

    def __init__(self, pid: int) -> None:
        try:
            self._fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise ProcessLookupError(f"process {pid} is gone") from error

    def count(self) -> int:
        """Return how many faults there were so far, of all its threads, also of those that have ended.

        :raises ProcessLookupError: where the process is gone.
        """
        fields = os.pread(self._fd, _ROOM, 0).rpartition(b")")[2].split()
        return int(fields[_MINOR]) + int(fields[_MAJOR])

    def close(self) -> None:
        """Close it; a second time does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
