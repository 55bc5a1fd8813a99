"""Commands of the refinement queue: ``worker``, and ``queue`` with one command for each change of a job."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cdi_stream.cli.output import JsonOption, LogFormat, LogOption, NeededConfig, StopSignal, console, show
from cdi_stream.errors import InputError
from cdi_stream.refine import control
from cdi_stream.refine.queue import QUEUE

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
    from cdi_stream.refine.engine import ENGINE_GROUP
    from cdi_stream.refine.worker import WorkerSettings, run_worker
    from cdi_stream.registry import load

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
            workers=settings.refine.workers,
            scheduler=settings.refine.scheduler,
            resources=tuple(settings.refine.resources.items()),
            lease_s=settings.refine.lease_s,
            least_free_bytes=settings.retention.least_free_bytes,
        ),
        load(ENGINE_GROUP, settings.refine.engine),
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
    found = control.list_jobs(_directory(config), state)
    jobs = [asdict(job) for job in found.jobs]
    if as_json:
        show({"counts": found.counts, "jobs": jobs}, as_json)
        return
    for job in jobs:
        console.print("  ".join(f"{key} {value}" for key, value in job.items() if value is not None), highlight=False)
    show(found.counts, as_json)


@queue_app.command("raise")
def put_first(job: JobArgument, config: NeededConfig, as_json: JsonOption = False) -> None:
    """Put a waiting job before all others."""
    control.raise_job(_directory(config), job)
    show({"job": job, "changed": True}, as_json)


@queue_app.command()
def retry(job: JobArgument, config: NeededConfig, as_json: JsonOption = False) -> None:
    """Return a failed or cancelled job to the queue."""
    control.retry_job(_directory(config), job)
    show({"job": job, "changed": True}, as_json)


@queue_app.command()
def cancel(job: JobArgument, config: NeededConfig, as_json: JsonOption = False) -> None:
    """Cancel a job that waits, is at work, or has failed; a worker stops within seconds."""
    control.cancel_job(_directory(config), job)
    show({"job": job, "changed": True}, as_json)


@queue_app.command()
def prioritise(
    job: JobArgument,
    priority: Annotated[int, typer.Argument(help="Priority of the job; higher runs first, the default is 0.")],
    config: NeededConfig,
    as_json: JsonOption = False,
) -> None:
    """Change the priority of a waiting job."""
    control.prioritise_job(_directory(config), job, priority)
    show({"job": job, "changed": True}, as_json)


def _directory(config: Path) -> Path:
    """Return the results folder; the error about a missing queue also says where to look for it."""
    from cdi_stream.config import read_config

    directory = read_config(config).publish.directory
    if not (directory.resolve() / QUEUE).exists():
        raise InputError(
            f"{directory.resolve() / QUEUE} does not exist: no service with this configuration has queued a refinement "
            f"yet; if one has, {_from_where(directory)}"
        )
    return directory


def _from_where(directory: Path) -> str:
    """Return the remedy for a missing folder."""
    if directory.is_absolute():
        return "or set publish.directory to the folder of the service"
    return (
        "or run this command in the folder in which the service runs: publish.directory is the relative path "
        f"{str(directory)!r}"
    )
