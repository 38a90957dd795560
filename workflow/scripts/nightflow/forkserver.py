"""A process that has the libraries of the steps in memory and runs each job in a fork of itself.

To start Python and to import what a step needs takes longer than many a step. The jobs come by `handover`; a fork has
the streams, the folder and the environment of the process that Snakemake started for the job, and does what that one
would have done. When a second job of a script comes, the server first imports what the one before did. It ends with
the run.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import os
import resource
import runpy
import select
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from nightflow.handover import BEGUN, SEPARATOR, STREAMS
from nightflow.packages import quick_photutils

#: Where they go to all processes of a run, they are meant for the run and its jobs: the server ends with the run.
_SIGNALS_FOR_JOBS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_LARGEST_REQUEST = 2**20  # bytes; a socket takes fewer
_BYTES_OF_STATUS = 4


@dataclass(frozen=True)
class Job:
    """What a process that is to run a script asks for, and the connection by which it waits for the end.

    The client is named by the process ids of its parent and of its own.
    """

    connection: socket.socket
    streams: list[int]
    client: str
    script: str
    folder: str
    environment: dict[str, str]

    @classmethod
    def received(cls, connection: socket.socket) -> Job:
        request, streams, *_ = socket.recv_fds(connection, _LARGEST_REQUEST, len(STREAMS))
        client, script, folder, *variables = os.fsdecode(request).split(SEPARATOR)
        environment = dict(variable.split("=", 1) for variable in variables)
        return cls(connection, list(streams), client, script, folder, environment)

    @property
    def step(self) -> str:
        """Name of the script, of which Snakemake makes a copy with a name of its own for each job."""
        return os.path.basename(self.script).partition(".")[2]

    def end(self, status: int) -> None:
        """Tell the process its exit status or, with a minus, the signal by which it is to end."""
        with contextlib.suppress(OSError):  # it knows already, or is gone
            self.connection.send(status.to_bytes(_BYTES_OF_STATUS, sys.byteorder, signed=True))


class Server:
    """Takes jobs until the run ends.

    Parameters
    ----------
    listening : socket.socket
        Unix socket, of type ``SOCK_SEQPACKET``, to which the jobs come.
    run : int
        Descriptor of a pipe that ends with the run, however that ends.
    folder : Path
        Private folder of the socket, removed at the end. While a job is at work, a link in it leads from the client to
        the process id of the worker, which leaves a file with its CPU seconds and its largest memory in MiB.
    """

    def __init__(self, listening: socket.socket, run: int, folder: Path):
        self._listening, self._run, self._folder = listening, run, folder
        self._jobs: dict[int, Job] = {}  # by the process id of the worker
        self._handlers = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS_FOR_JOBS}
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)

    def serve(self) -> None:
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        while True:
            ready, *_ = select.select([self._listening, self._run, self._woken], [], [])
            if self._woken in ready:
                os.read(self._woken, 2**12)
                self._reap(os.WNOHANG)
            if self._run in ready:
                break
            if self._listening in ready:
                self._take(self._listening.accept()[0])
        self._listening.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._reap(0)  # a run that was killed leaves jobs at work

    def _reap(self, flags: int) -> None:
        for worker, job in list(self._jobs.items()):
            ended, status = os.waitpid(worker, flags)
            if ended:
                del self._jobs[worker]
                job.end(os.waitstatus_to_exitcode(status))
                job.connection.close()
                self._link(job).unlink(missing_ok=True)

    def _link(self, job: Job) -> Path:
        return self._folder / job.client

    def _take(self, connection: socket.socket) -> None:
        """Fork a worker for the job that comes by `connection`; a client that gets no answer runs its script itself."""
        try:
            job = Job.received(connection)
        except (OSError, ValueError):
            connection.close()
            return
        if not self._fork(job):
            connection.close()
        for stream in job.streams:
            os.close(stream)

    def _fork(self, job: Job) -> bool:
        """Whether the job has a worker now."""
        needs = self._folder / f"{job.step}.modules"
        if modules := _taken(needs):
            _import(modules)
        if not _alone():
            return False
        try:
            worker = os.fork()
        except OSError:  # too many processes, or no memory for one
            return False
        if not worker:
            try:
                self._leave()
                _become(job)
                _work(job, needs, self._folder / f"{job.client}.usage")
            finally:
                os._exit(1)  # no fork goes on as a server
        self._jobs[worker] = job
        with contextlib.suppress(OSError):
            self._link(job).symlink_to(str(worker))
        return True

    def _leave(self) -> None:
        """What a fork does not share with the server."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for other in (self._listening, *(job.connection for job in self._jobs.values())):
            other.close()
        for end in (self._woken, self._wake):
            os.close(end)


def _alone() -> bool:
    """Whether this process has one thread: others would be missing in a fork, with what they hold locked."""
    return len(os.listdir("/proc/self/task")) == 1


def _taken(needs: Path) -> list[str]:
    """Modules that a job of this script had to import since they were last taken."""
    try:
        modules = needs.read_text(encoding="utf-8").split()
        needs.unlink()
    except OSError:
        return []
    return modules


def _import(modules: Iterable[str]) -> None:
    with quick_photutils():
        for name in modules:
            with contextlib.suppress(Exception):  # the job will meet it, where it can be told
                importlib.import_module(name)
    gc.collect()
    gc.freeze()  # no search for garbage writes to memory that the forks share


def _become(job: Job) -> None:
    """Take on the streams, the folder and the environment of the client; where that fails, it runs the script."""
    try:
        for number, stream in zip(STREAMS, job.streams, strict=True):
            os.dup2(stream, number)
            os.close(stream)
        sys.stdout.reconfigure(line_buffering=os.isatty(STREAMS[1]))
        Path("/proc/self/comm").write_text(job.step[:15], encoding="utf-8")  # its name in lists of processes
        os.chdir(job.folder)
        os.environ.clear()
        os.environ.update(job.environment)
    except (OSError, ValueError):
        job.connection.shutdown(socket.SHUT_RDWR)
        raise
    job.connection.send(BEGUN)
    _end_with_client(job.connection)


def _work(job: Job, needs: Path, usage: Path) -> NoReturn:
    """Do what the client would have done, as a process of its own, and end."""
    known = set(sys.modules)
    status = _outcome(job.script)
    if new := [name for name in sys.modules if name not in known]:
        _write(needs, "\n".join(new))
    _write(usage, _used())
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    job.end(status)
    os._exit(status & 0xFF)


def _end_with_client(connection: socket.socket) -> None:
    """Have the kernel end this process when the client has gone, which waits and says no more."""
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, fcntl.F_SETFL, fcntl.fcntl(connection, fcntl.F_GETFL) | os.O_ASYNC)
    with contextlib.suppress(BlockingIOError):
        connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        os._exit(1)  # it had gone before


def _outcome(script: str) -> int:
    """Run the script and the functions that were to be called at exit, as Python does; its exit status."""
    sys.argv[:] = [script]
    try:
        runpy.run_path(script, run_name="__main__")
        status = 0
    except SystemExit as end:
        status = _status(end.code)
    except BaseException as error:
        trace = _from_script(error.__traceback__, script)
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return status


def _from_script(trace: TracebackType | None, script: str) -> TracebackType | None:
    """The traceback without the frames of the server."""
    while trace and trace.tb_frame.f_code.co_filename != script:
        trace = trace.tb_next
    return trace


def _status(code: object) -> int:
    """What `sys.exit` makes of its argument."""
    if code is None or isinstance(code, int):
        return (code or 0) & 0xFF
    print(code, file=sys.stderr)
    return 1


def _used() -> str:
    own, programs = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    seconds = sum(usage.ru_utime + usage.ru_stime for usage in (own, programs))
    return f"{seconds} {max(own.ru_maxrss, programs.ru_maxrss) / 1024}"


def _write(path: Path, text: str) -> None:
    """Write a file of the server's folder at one stroke, if the folder is still there."""
    part = path.with_name(f"{os.getpid()}.part")
    with contextlib.suppress(OSError):
        part.write_text(text, encoding="utf-8")
        part.replace(path)


def main(folder: str, listening: str, *modules: str) -> None:
    with socket.socket(fileno=int(listening)) as jobs:
        server = Server(jobs, sys.stdin.fileno(), Path(folder))
        _import(modules)
        server.serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
