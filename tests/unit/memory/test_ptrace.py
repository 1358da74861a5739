"""System calls inside another process: it goes on as if nothing had been, whatever happens to it or to us."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest
from tests.framework.waiting import wait_until
from tests.unit.memory.targets import ANSWER, CALL, FILTERED, HANDLER, PARENT, Target

from snaptree.memory import kernel
from snaptree.memory.kernel import PR_SET_PTRACER, SYS_GETPID, SYS_PRCTL
from snaptree.memory.ptrace import Traced, TracingRefused, allow_later_tracers
from snaptree.memory.userfault import of_process

SYS_LSEEK = 8
SYS_MMAP = 9
SYS_EXIT_GROUP = 231
MAP_PRIVATE_ANONYMOUS = 0x22

KILLED_AT = """
import os, signal, sys
from snaptree.memory import ptrace
pid, at, after = (int(word) for word in sys.argv[1:])
count, real = 0, ptrace.ptrace
def counted(*args):
    global count
    count += 1
    if count == at and not after:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*args)
    if count == at:
        os.kill(os.getpid(), signal.SIGKILL)
ptrace.ptrace = counted
with ptrace.Traced(pid) as traced:
    assert traced.call(39) == pid
"""


def state(pid: int) -> str:
    """Return the process's state: one letter of proc(5)."""
    return kernel.status(pid)["State"][0]


def wait_blocked(target: Target) -> None:
    wait_until(lambda: state(target.pid) == "S", "the target to wait")


def test_calls_return_their_results_and_errnos() -> None:
    with Target(ANSWER) as target, Traced(target.pid) as traced:
        assert traced.call(SYS_GETPID) == target.pid
        address = traced.call(SYS_MMAP, 0, 1 << 16, 3, MAP_PRIVATE_ANONYMOUS, -1, 0)
        assert address > 1 << 32
        with pytest.raises(OSError, match="Bad file") as caught:
            traced.call(SYS_LSEEK, -1, 0, 0)
        assert caught.value.errno == errno.EBADF
        with pytest.raises(ValueError, match="at most 6"):
            traced.call(SYS_GETPID, *range(7))


def test_a_process_goes_on_after_many_sessions() -> None:
    with Target(ANSWER) as target:
        for _ in range(300):
            with Traced(target.pid) as traced:
                assert traced.call(SYS_GETPID) == target.pid
        assert target.ask() == "0"


@pytest.mark.parametrize(
    "call",
    [
        "libc.poll(fds, 1, 100000)",  # made again by restart_syscall
        "libc.poll(fds, 1, -1)",
        "libc.ppoll(fds, 1, None, None)",
        "libc.select(ready + 1, ctypes.byref(ctypes.c_ulong(1 << ready)), None, None, None)",
        "libc.read(ready, ctypes.create_string_buffer(1), 1)",
    ],
)
def test_a_system_call_that_was_interrupted_goes_on(call: str) -> None:
    with Target(CALL.format(call=call)) as target:
        for _ in range(3):
            wait_blocked(target)
            for _ in range(3):
                with Traced(target.pid) as traced:
                    traced.call(SYS_GETPID)
            target.poke()
            assert target.line() == "1 0"
            if "read" in call:
                target.poke()  # the one that it read itself


def test_a_signal_that_arrives_meanwhile_is_delivered_once_afterwards() -> None:
    with Target(ANSWER) as target:
        with Traced(target.pid) as traced:
            os.kill(target.pid, signal.SIGUSR1)
            traced.call(SYS_GETPID)
            traced.call(SYS_GETPID)
        assert target.ask() == "1"
        assert int(kernel.status(target.pid)["SigBlk"], 16) == 0


def test_a_wait_that_a_signal_is_to_end_ends_by_it() -> None:
    with Target(HANDLER + CALL.format(call="libc.ppoll(fds, 1, None, None)")) as target:
        wait_blocked(target)
        with Traced(target.pid) as traced:
            os.kill(target.pid, signal.SIGUSR1)
            traced.call(SYS_GETPID)
        assert target.line() == f"-1 {errno.EINTR}"


def test_a_stopped_process_serves_and_stays_stopped() -> None:
    with Target(ANSWER) as target:
        os.kill(target.pid, signal.SIGSTOP)
        wait_until(lambda: state(target.pid) == "T", "the target to stop")
        with Traced(target.pid) as traced:
            assert traced.call(SYS_GETPID) == target.pid
        wait_until(lambda: state(target.pid) == "T", "the target to be stopped again")
        os.kill(target.pid, signal.SIGCONT)
        assert target.ask() == "0"


def test_a_process_that_is_stopped_meanwhile_stops_afterwards() -> None:
    with Target(ANSWER) as target:
        with Traced(target.pid) as traced:
            os.kill(target.pid, signal.SIGSTOP)
            assert traced.call(SYS_GETPID) == target.pid
        wait_until(lambda: state(target.pid) == "T", "the target to stop")
        os.kill(target.pid, signal.SIGCONT)
        assert target.ask() == "0"


@pytest.mark.parametrize("after", [0, 1], ids=["before it", "after it"])
def test_the_process_survives_our_death_at_every_step(after: int) -> None:
    with Target(ANSWER) as target:
        for at in range(1, 100):
            done = subprocess.run([sys.executable, "-c", KILLED_AT, str(target.pid), str(at), str(after)], check=False)
            os.kill(target.pid, signal.SIGUSR1)
            assert target.ask() == str(at)
            if done.returncode == 0:
                break
            assert done.returncode == -signal.SIGKILL
        assert at > 15
        wait_blocked(target)
        assert int(kernel.status(target.pid)["SigBlk"], 16) == 0


def test_the_end_of_a_child_of_ours_is_left_for_whoever_started_it() -> None:
    with Target(ANSWER) as target:
        with pytest.raises(ProcessLookupError), Traced(target.pid) as traced:
            traced.call(SYS_EXIT_GROUP, 7)
        assert target.kill() == 7


def test_the_end_of_somebody_elses_child_is_passed_on_to_its_parent() -> None:
    with Target(PARENT.format(child=ANSWER)) as parent:
        with pytest.raises(ProcessLookupError), Traced(int(parent.line())) as traced:
            traced.call(SYS_EXIT_GROUP, 7)
        assert parent.line() == "7"


def test_a_process_that_is_killed_meanwhile_is_an_error() -> None:
    with Target(ANSWER) as target, pytest.raises(ProcessLookupError), Traced(target.pid):
        target.kill()


def test_an_error_of_ours_lets_the_process_go() -> None:
    with Target(ANSWER) as target:
        with pytest.raises(KeyError), Traced(target.pid):
            raise KeyError
        assert target.ask() == "0"
        assert kernel.status(target.pid)["TracerPid"] == "0"


def test_a_process_that_is_gone_or_a_kernel_thread_is_an_error() -> None:
    with Target(ANSWER) as target:
        gone = target.pid
    with pytest.raises(ProcessLookupError), Traced(gone):
        pass


def test_a_strange_seccomp_filter_is_respected() -> None:
    with (
        Target(FILTERED) as target,
        pytest.raises(TracingRefused, match="seccomp filter that is neither"),
        Traced(target.pid),
    ):
        pass


def test_two_tracers_are_refused_with_the_first_ones_name() -> None:
    with Target(ANSWER) as target, Traced(target.pid):
        words = f"from snaptree.memory.ptrace import Traced; Traced({target.pid}).__enter__()"
        done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=False)
        assert f"is traced by process {os.getpid()} already" in done.stderr


def test_a_userfaultfd_is_made_once() -> None:
    with Target(ANSWER) as target:
        for _ in range(2):
            os.close(of_process(target.pid))
        links = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{target.pid}/fd")]
        assert links.count("anon_inode:[userfaultfd]") == 1
        assert target.ask() == "0"


def test_later_tracers_are_allowed_under_yamas_scope_1_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with Target(ANSWER) as target, Traced(target.pid) as traced:
        made: list[tuple[int, ...]] = []

        def call(*args: int) -> int:
            made.append(args)
            return 0

        monkeypatch.setattr(traced, "call", call)
        for scope in (0, 1, 2, 3):
            monkeypatch.setattr("snaptree.memory.ptrace.ptrace_scope", lambda scope=scope: scope)
            allow_later_tracers(traced)
        assert made == [(SYS_PRCTL, PR_SET_PTRACER, 2**64 - 1)]
