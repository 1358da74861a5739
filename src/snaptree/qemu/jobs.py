"""Running one of QEMU's snapshot jobs to its end.  Not for: choosing what to run.

A job's error is only in ``query-jobs``, and its id stays taken until ``job-dismiss``; both also after the client that
started it is gone, which is how a later supervisor learns how the job of a dead one ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..model.errors import QEMUFailed
from .session import Session
from .together import all_ended

JOB_PREFIX = "snaptree-"
POLL_FIRST_S = 0.0005
POLL_LAST_S = 0.05


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ended; ``error`` is QEMU's sentence, empty where it succeeded."""

    id: str
    error: str


class StatePlan(Protocol):
    """What is planned of a save or a load."""

    @property
    def job_id(self) -> str:
        """The id of its job."""

    @property
    def tag(self) -> str:
        """The snapshot's tag."""

    @property
    def vmstate_node(self) -> str:
        """The block node that holds the VM state."""


def first_arguments(plan: StatePlan) -> dict[str, object]:
    """Return the arguments of a save or a load that are known beforehand; its ``devices`` follow."""
    return {"job-id": plan.job_id, "tag": plan.tag, "vmstate": plan.vmstate_node}


def new_job_id() -> str:
    """Return a job id that was never used before; a short one (see ``session``)."""
    return JOB_PREFIX + os.urandom(6).hex()


async def run_job(session: Session, command: str, arguments: Mapping[str, object], *, keep: bool = False) -> None:
    """Start a job and wait for its end.

    :param arguments: with its ``job-id``.
    :param keep: leave the concluded job in QEMU, so that a later supervisor can still learn how it ended; the caller
        dismisses it once that is written down.

    :raises QEMUFailed: where QEMU refuses it, or the job ends with an error.
    :raises QEMUGone: where QEMU ends meanwhile.
    """
    job_id = str(arguments["job-id"])
    # Asked at once: a save or a load blocks QEMU, which then answers both.
    _, job = await all_ended(session.execute(command, arguments), find_job(session, job_id))
    end = await _wait_job(session, job_id, job, keep=keep)
    if end.error:
        raise QEMUFailed(f"QEMU's {command} failed: {end.error.rstrip('.')}.")


async def wait_job(session: Session, job_id: str, *, keep: bool = False) -> JobEnd:
    """Wait until the job has concluded, dismiss it unless ``keep``, and return how it ended.

    :raises QEMUFailed: where QEMU knows no such job.
    """
    return await _wait_job(session, job_id, await find_job(session, job_id), keep=keep)


async def _wait_job(session: Session, job_id: str, job: Mapping[str, Any] | None, *, keep: bool) -> JobEnd:
    pause_s = POLL_FIRST_S
    while True:
        if job is None:
            raise QEMUFailed(f"QEMU knows no job {job_id}.")
        if job["status"] == "concluded":
            if not keep:
                await dismiss(session, job_id)
            return JobEnd(job_id, str(job.get("error", "")))
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, POLL_LAST_S)
        job = await find_job(session, job_id)


async def dismiss(session: Session, job_id: str) -> None:
    """Dismiss a concluded job; one that is gone, or can't be dismissed, leaves nothing but a line in ``query-jobs``."""
    with contextlib.suppress(QEMUFailed):
        await session.execute("job-dismiss", {"id": job_id})


async def dismiss_soon(session: Session, job_id: str) -> None:
    """As :func:`dismiss`, without waiting: QEMU answers in order, and whoever asks next finds it gone."""
    message = {"execute": "job-dismiss", "arguments": {"id": job_id}}
    if not session.ask(message, lambda reply: None):
        await dismiss(session, job_id)


async def find_job(session: Session, job_id: str) -> dict[str, Any] | None:
    """Return the job as ``query-jobs`` has it, or ``None``."""
    jobs: list[dict[str, Any]] = await session.execute("query-jobs")
    return next((job for job in jobs if job["id"] == job_id), None)


async def dismiss_leftovers(session: Session) -> None:
    """Dismiss every concluded job of ours."""
    for job in await session.execute("query-jobs"):
        if job["id"].startswith(JOB_PREFIX) and job["status"] == "concluded":
            await dismiss(session, job["id"])
