"""Making system calls inside another process: QEMU.  Not for: which calls, and what they are for.

One session serves several calls: its main thread stands still for about 0.2 ms.  Nothing of the process is changed but
by the calls themselves: its registers, its signal mask and an interrupted system call of its own go on as if nothing
had been, and a signal that arrives meanwhile is delivered afterwards.  The process never stays stopped.  If we are
killed in the middle, the kernel lets it run, and the signal frame of ``registers`` puts its registers back.

It stops only at system call stops and at interruptions, never by a signal: where the tracer dies, the kernel delivers
the signal of a stop (ptrace(2)), and a SIGTRAP would end the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import struct
from types import TracebackType
from typing import Self

from . import registers
from .instructions import Code
from .kernel import PR_SET_PTRACER, PR_SET_PTRACER_ANY, SYS_GETPID, SYS_PRCTL, ptrace, status
from .refusal import TracingRefused, ptrace_scope, refusal, seccomp_objection
from .registers import Registers

__all__ = ["Traced", "TracingRefused", "allow_later_tracers"]

# linux/ptrace.h
PTRACE_GETREGS = 12
PTRACE_SETREGS = 13
PTRACE_DETACH = 17
PTRACE_SYSCALL = 24
PTRACE_CONT = 7
PTRACE_GETREGSET = 0x4204
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
PTRACE_GETSIGMASK = 0x420A
PTRACE_SETSIGMASK = 0x420B
PTRACE_O_TRACESYSGOOD = 1
PTRACE_EVENT_STOP = 128
NT_X86_XSTATE = 0x202

XSTATE_MAX_BYTES = 16384
"""More than any CPU's XSAVE area (AMX has the largest, 11 KiB)."""

SIGSET_BYTES = 8
ALL_SIGNALS = b"\xff" * SIGSET_BYTES
"""Nothing is lost by it: a blocked signal waits.  The kernel leaves SIGKILL and SIGSTOP out."""

SYSCALL_STOP = signal.SIGTRAP | 0x80
LAST_ERRNO = 4095


class Traced:
    """A process whose main thread stands still, so that it makes system calls for us; a context manager.

    Prerequisites: x86-64, and permission to trace the process.  Enter, call and leave in one OS thread: the kernel
    knows the tracer as a thread.  It blocks while the process is inside an uninterruptible wait of the kernel.
    While it lasts no other thread of ours may wait(2) for this process: it would take our stops for its end.

    :param code: where its instructions lie, if that is known.
    :raises TracingRefused: on entering; it says why, and what the user can do.  Nothing was changed.
    :raises ProcessLookupError: where the process is gone.
    """

    def __init__(self, pid: int, code: Code | None = None) -> None:
        self.pid = pid
        self._code = code
        self._instruction = 0
        self._stack = 0
        self._saved = Registers()
        self._mask = b""

    def __enter__(self) -> Self:
        if platform.machine() != "x86_64":
            raise TracingRefused(
                f"System calls inside QEMU are made on x86_64 only, and this host is {platform.machine()}.",
                "Pages are compared instead; there is nothing to do.",
            )
        objection = seccomp_objection(self.pid)
        if objection:
            raise objection
        try:
            code = self._code or Code.of(self.pid)
            ptrace(PTRACE_SEIZE, self.pid, 0, PTRACE_O_TRACESYSGOOD)
        except PermissionError as error:
            raise refusal(self.pid, error) from error
        with contextlib.ExitStack() as undo:
            undo.callback(self._detach)
            ptrace(PTRACE_INTERRUPT, self.pid)
            self._wait_for_interruption()
            self._saved = self._registers()
            self._mask = self._signal_mask()
            undo.callback(self._put_back)
            if self._saved["cs"] != registers.USER_CS:
                raise TracingRefused(
                    f"Process {self.pid} is a 32-bit program.",
                    "Run a 64-bit QEMU, or use the full way (--memory full).",
                )
            self._prepare(code)
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._put_back()
        except ProcessLookupError:
            if kind is None:
                raise
        finally:
            self._detach()

    def call(self, number: int, *args: int) -> int:
        """Make a system call in the process, and return its result.

        :param args: up to six; pointers are addresses in that process.
        :raises OSError: with the errno that the call failed with there.
        :raises ProcessLookupError: where the process is gone.
        """
        self._set_registers(registers.prepare_call(self._saved, self._instruction, self._stack, number, args))
        self._run_to_syscall_stop()  # at its entry
        self._run_to_syscall_stop()  # at its exit
        result = ctypes.c_int64(self._registers()["rax"]).value
        if -LAST_ERRNO <= result < 0:
            raise OSError(-result, os.strerror(-result))
        return result

    def _prepare(self, code: Code) -> None:
        """Lay the frame that leads back without us, and keep signals out."""
        self._instruction = code.syscall
        self._stack = self._saved["rsp"]
        if code.syscall_ret and code.sigreturn:
            address, frame = registers.signal_frame(self._saved, code.sigreturn, self._mask, self._xstate())
            with contextlib.suppress(OSError):
                memory = os.open(f"/proc/{self.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
                try:
                    if os.pwrite(memory, frame, address) == len(frame):
                        self._instruction, self._stack = code.syscall_ret, address
                finally:
                    os.close(memory)
        # From here on to the end it is never without a way back: the frame holds the signal mask too.
        self._set_registers(registers.prepare_call(self._saved, self._instruction, self._stack, SYS_GETPID, ()))
        self._set_signal_mask(ALL_SIGNALS)

    def _put_back(self) -> None:
        self._set_signal_mask(self._mask)
        # So that it leaves by way of the kernel's signal code, where an interrupted system call of its own is made
        # again, or fails with EINTR where a signal's handler is to run first.
        ptrace(PTRACE_INTERRUPT, self.pid)
        self._set_registers(self._saved)
        ptrace(PTRACE_CONT, self.pid)
        self._wait_for_interruption()

    def _run_to_syscall_stop(self) -> None:
        deliver = 0
        while True:
            ptrace(PTRACE_SYSCALL, self.pid, 0, deliver)
            stop = self._wait()
            if stop == SYSCALL_STOP:
                return
            # SIGSTOP cannot be kept out; delivered, the process stops once we are gone.
            deliver = 0 if stop >> 8 else stop

    def _wait_for_interruption(self) -> None:
        while (stop := self._wait()) >> 8 != PTRACE_EVENT_STOP:
            ptrace(PTRACE_CONT, self.pid, 0, 0 if stop == SYSCALL_STOP or stop >> 8 else stop)

    def _wait(self) -> int:
        """Wait until it stops again, and return the stop's signal and, above its 8 bits, the event.

        :raises ProcessLookupError: where it ended instead.
        """
        # Looked at first: the end of a child of ours is for whoever started it to collect.
        found = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert found is not None
        if found.si_code in (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED):
            if _parent(self.pid) != os.getpid():
                os.waitid(os.P_PID, self.pid, os.WEXITED)  # its own parent can collect it only after us
            raise ProcessLookupError(f"process {self.pid} ended while it was traced")
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)
        return found.si_status

    def _detach(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            ptrace(PTRACE_DETACH, self.pid)

    def _registers(self) -> Registers:
        found = Registers()
        ptrace(PTRACE_GETREGS, self.pid, 0, ctypes.addressof(found))
        return found

    def _set_registers(self, values: Registers) -> None:
        ptrace(PTRACE_SETREGS, self.pid, 0, ctypes.addressof(values))

    def _signal_mask(self) -> bytes:
        mask = ctypes.create_string_buffer(SIGSET_BYTES)
        ptrace(PTRACE_GETSIGMASK, self.pid, SIGSET_BYTES, ctypes.addressof(mask))
        return mask.raw

    def _set_signal_mask(self, mask: bytes) -> None:
        buffer = ctypes.create_string_buffer(mask, SIGSET_BYTES)
        ptrace(PTRACE_SETSIGMASK, self.pid, SIGSET_BYTES, ctypes.addressof(buffer))

    def _xstate(self) -> bytes:
        buffer = ctypes.create_string_buffer(XSTATE_MAX_BYTES)
        vector = ctypes.create_string_buffer(struct.pack("<QQ", ctypes.addressof(buffer), XSTATE_MAX_BYTES), 16)
        ptrace(PTRACE_GETREGSET, self.pid, NT_X86_XSTATE, ctypes.addressof(vector))
        return buffer.raw[: struct.unpack("<QQ", vector.raw)[1]]


def allow_later_tracers(traced: Traced) -> None:
    """Let a later supervisor, which is not QEMU's parent, trace it where Yama's ptrace_scope is 1.

    Yama then asks of a tracer no more than Linux without Yama does: the same user, and a process that may be dumped.
    So any program of this user may trace this one QEMU, as it may anyhow read its disks and end it.
    Without Yama, or with another scope, it does nothing.

    :raises ProcessLookupError: where the process is gone.
    """
    if ptrace_scope() == 1:
        try:
            traced.call(SYS_PRCTL, PR_SET_PTRACER, PR_SET_PTRACER_ANY)
        except ProcessLookupError:
            raise
        except OSError:
            return  # a later supervisor will be refused, and say so


def _parent(pid: int) -> int:
    try:
        return int(status(pid)["PPid"])
    except (OSError, KeyError):
        return 0
