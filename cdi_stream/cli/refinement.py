"""Commands of the refinement queue: ``worker``, and ``queue`` with ``list``, ``retry``, ``cancel``, ``prioritise``."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from cdi_stream.cli.output import JsonOption, LogFormat, LogOption, NeededConfig, StopSignal, console, show
from cdi_stream.errors import InputError
from cdi_stream.refine.queue import STATES

NICE = 19
"""Niceness of a worker: the lowest priority of the system."""

queue_app = typer.Typer(no_args_is_help=True, help="List and change the jobs of the refinement queue.")
JobArgument = Annotated[int, typer.Argument(help="Number of the job, as shown by 'queue list'.")]


def worker(
    config: NeededConfig,
    once: Annotated[bool, typer.Option("--once", help="End when the queue is empty.")] = False,
    log_format: LogOption = LogFormat.TEXT,
) -> None:
    """Run a worker for the refinement queue at the lowest priority (the service starts one itself)."""
    os.nice(NICE)  # before the imports, which take most of the time at the start
    from cdi_stream.config import read_config
    from cdi_stream.live.serve import bus_sink_of
    from cdi_stream.refine.worker import WorkerSettings, run_worker

    settings = read_config(config)
    documents, directory = settings.documents, settings.publish.directory.resolve()
    if not directory.is_dir():
        raise InputError(
            f"{directory} does not exist: no service with this configuration runs in this folder; start it first, "
            f"{_from_where(settings.publish.directory)}"
        )
    stop_signal = StopSignal()
    run_worker(
        WorkerSettings(
            directory=directory,
            results=settings.publish.results,
            subscribe=documents.subscribe,
            prefix=documents.prefix,
            serializer=documents.serializer,
            curve=documents.curve,
            threads=settings.refine.threads,
        ),
        bus_sink_of(settings, is_immediate=True),
        stop_signal.is_set,
        ends_when_idle=once,
    )


@queue_app.command("list")
def list_jobs(
    config: NeededConfig,
    state: Annotated[str | None, typer.Option(help="Show only jobs of this state.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the jobs of the queue, oldest first."""
    if state is not None and state not in STATES:
        raise InputError(f"--state: expected one of {', '.join(STATES)}, got {state!r}")
    with _queue(config) as queue:
        jobs = [_row(job) for job in queue.jobs(state)]
        counts = queue.counts()
    if as_json:
        show({"counts": counts, "jobs": jobs}, as_json)
        return
    for job in jobs:
        console.print("  ".join(f"{key} {value}" for key, value in job.items() if value is not None), highlight=False)
    show(counts, as_json)


@queue_app.command()
def retry(job: JobArgument, config: NeededConfig, as_json: JsonOption = False) -> None:
    """Return a failed or cancelled job to the queue."""
    with _queue(config) as queue:
        _require_change(job, queue.retry(job), "failed or cancelled", as_json)


@queue_app.command()
def cancel(job: JobArgument, config: NeededConfig, as_json: JsonOption = False) -> None:
    """Cancel a job that no worker has started."""
    with _queue(config) as queue:
        _require_change(job, queue.cancel(job), "ready or failed", as_json)


@queue_app.command()
def prioritise(
    job: JobArgument,
    priority: Annotated[int, typer.Argument(help="Priority of the job; higher runs first, the default is 0.")],
    config: NeededConfig,
    as_json: JsonOption = False,
) -> None:
    """Change the priority of a waiting job."""
    with _queue(config) as queue:
        _require_change(job, queue.prioritise(job, priority), "ready", as_json)


@contextlib.contextmanager
def _queue(config: Path) -> Iterator[Any]:
    from cdi_stream.config import read_config
    from cdi_stream.refine.queue import QUEUE, Queue

    directory = read_config(config).publish.directory
    path = directory.resolve() / QUEUE
    if not path.exists():
        raise InputError(
            f"{path} does not exist: no service with this configuration has queued a refinement yet; if one has, "
            f"{_from_where(path.parent if directory.is_absolute() else directory)}"
        )
    with contextlib.closing(Queue(path)) as queue:
        yield queue


def _from_where(directory: Path) -> str:
    """Return the remedy for a missing folder."""
    if directory.is_absolute():
        return "or set publish.directory to the folder of the service"
    return (
        "or run this command in the folder in which the service runs: publish.directory is the relative path "
        f"{str(directory)!r}"
    )


def _row(job: Any) -> dict[str, Any]:
    return {
        "job": job.id,
        "state": job.state,
        "method": job.method,
        "raw_uid": job.spec["raw_uid"],
        "curve_index": job.spec["curve_index"],
        "refinement_uid": job.key,
        "priority": job.priority,
        "attempts": job.attempts,
        "age_s": round(time.time() - job.created_s, 1),
        "error": job.error,
    }


def _require_change(job: int, is_changed: bool, expected: str, as_json: bool) -> None:
    if not is_changed:
        raise InputError(f"job {job}: expected a job that is {expected}, got another; see 'cdi-stream queue list'")
    show({"job": job, "changed": True}, as_json)
