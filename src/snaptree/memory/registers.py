"""An x86-64 thread's registers, and the signal frame that puts them back without us.  Not for: tracing.

While we make a system call inside another process, its registers are ours.  If we died just then, it would run on with
them, and crash.  Therefore the call is prepared so that the process finds back by itself::

    rip ─▶ syscall; ret          somewhere in its code
    rsp ─▶ address of            mov $15, %rax; syscall       (rt_sigreturn; every libc has it for its signal handlers)
           ucontext              all its registers and its signal mask, as they were
           xsave area            its floating point registers

The kernel reads ucontext and xsave area as if a signal handler had returned.
"""

from __future__ import annotations

import ctypes
import struct

from .kernel import SYS_RESTART_SYSCALL

SYSCALL = b"\x0f\x05"
SYSCALL_RET = b"\x0f\x05\xc3"
SIGRETURN = (b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05", b"\xb8\x0f\x00\x00\x00\x0f\x05")
"""``mov $15, %rax; syscall`` in its two encodings."""

USER_CS = 0x33
"""The code segment of 64-bit code."""

RED_ZONE_BYTES = 128
"""What a function may use below its stack pointer (x86-64 psABI)."""

# linux/errno.h: what the kernel leaves in rax of an interrupted system call that is to be made again.
ERESTARTSYS = 512
ERESTARTNOINTR = 513
ERESTARTNOHAND = 514
ERESTART_RESTARTBLOCK = 516

# asm/ucontext.h, asm/sigcontext.h
UC_FP_XSTATE = 1
UC_SIGCONTEXT_SS = 2
UC_STRICT_RESTORE_SS = 4
FP_XSTATE_MAGIC1 = 0x46505853
FP_XSTATE_MAGIC2 = 0x46505845

_NO_STACK = 0x8
"""An ss_flags that sigaltstack(2) refuses, and rt_sigreturn(2) ignores that: the alternate stack stays as it is."""

_WORD = 2**64


class Registers(ctypes.Structure):
    """``struct user_regs_struct`` of asm/user_64.h; all numbers are without a sign."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"),
            *("orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
        )
    )

    def __getitem__(self, name: str) -> int:
        value: int = getattr(self, name)
        return value

    def changed(self, **values: int) -> Registers:
        """Return a copy with other values in some registers; negative ones as the machine holds them."""
        copy = Registers.from_buffer_copy(self)
        for name, value in values.items():
            setattr(copy, name, value % _WORD)
        return copy


def prepare_call(saved: Registers, instruction: int, stack: int, number: int, args: tuple[int, ...]) -> Registers:
    """Return the registers with which a thread makes a system call.

    :param instruction: the address of a ``syscall`` instruction.
    :param stack: the stack pointer.
    :raises ValueError: for more than six arguments.
    """
    names = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
    if len(args) > len(names):
        raise ValueError(f"a system call has at most {len(names)} arguments, not {len(args)}")
    # orig_rax of -1 says that no system call was interrupted: otherwise the kernel would make that one again here.
    return saved.changed(rax=number, orig_rax=-1, rip=instruction, rsp=stack, **dict(zip(names, args, strict=False)))


def restarted(saved: Registers) -> Registers:
    """Return the registers with which an interrupted system call is made again; others as they are.

    This is what the kernel itself does on the way out of a stop (arch_do_signal_or_restart, arch/x86/kernel/signal.c).
    """
    if saved["orig_rax"] == _WORD - 1:
        return saved
    error = _WORD - saved["rax"]
    if error in (ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND):
        return saved.changed(rax=saved["orig_rax"], rip=saved["rip"] - 2, orig_rax=-1)
    if error == ERESTART_RESTARTBLOCK:
        return saved.changed(rax=SYS_RESTART_SYSCALL, rip=saved["rip"] - 2, orig_rax=-1)
    return saved


def signal_frame(saved: Registers, sigreturn: int, mask: bytes, xstate: bytes) -> tuple[int, bytes]:
    """Return where on its stack the frame of the drawing above goes, and its bytes.

    :param sigreturn: the address of a ``mov $15, %rax; syscall``.
    :param mask: the signal mask, 8 bytes.
    :param xstate: its floating point registers in the XSAVE format, as PTRACE_GETREGSET gives them.
    """
    registers = restarted(saved)
    area = _xsave_area(xstate)
    area_address = (saved["rsp"] - RED_ZONE_BYTES - len(area)) & ~63
    first = ("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx")
    context = struct.pack(
        "<QQQiIQ 15Q 3Q 4H 4Q Q 8Q",
        *(UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS, 0),  # uc_flags, uc_link
        *(0, _NO_STACK, 0, 0),  # uc_stack
        *(registers[name] for name in first),
        *(registers["rsp"], registers["rip"], registers["eflags"]),
        *(registers["cs"] & 0xFFFF, 0, 0, registers["ss"] & 0xFFFF),  # cs, gs, fs, ss
        *(0, 0, 0, 0),  # err, trapno, oldmask, cr2
        area_address,
        *(0,) * 8,
    )
    frame = struct.pack("<Q", sigreturn) + context + mask
    # As at the beginning of a signal handler: 16-byte aligned but for the return address.
    address = ((area_address - len(frame)) & ~15) - 8
    return address, frame + bytes(area_address - address - len(frame)) + area


def _xsave_area(xstate: bytes) -> bytes:
    """Return an XSAVE area with what the kernel writes around it in a signal frame (struct _fpx_sw_bytes)."""
    area = bytearray(xstate)
    features = struct.unpack_from("<Q", area, 464)[0]  # USER_XSTATE_XCR0_WORD
    struct.pack_into("<IIQI", area, 464, FP_XSTATE_MAGIC1, len(xstate) + 4, features, len(xstate))
    return bytes(area) + struct.pack("<I", FP_XSTATE_MAGIC2)
