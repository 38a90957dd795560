"""A run's server of preloaded steps (`forkserver`): its start, its end, and its workers in Snakemake's benchmark files.

It serves jobs on this machine that run with the Python of the run. They find it by the path on which Python looks for
modules (`handover`), and do without where it could not be started or is no longer there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from nightflow import handover

# The server has one thread, so that it can be forked; threads of a step are its own, not those of a library.
_ONE_THREAD = {
    f"{library}_THREADS": "1"
    for library in ("OMP_NUM", "GOTO_NUM", "OPENBLAS_NUM", "MKL_NUM", "VECLIB_MAXIMUM", "NUMEXPR_NUM")
}


class Preloading:
    """The server of a run."""

    def __init__(self):
        self._server: subprocess.Popen | None = None
        self._folder: Path | None = None

    def start(self, modules: Iterable[str]) -> None:
        """Start the server, where the system has what it takes, and have the jobs from now on find it.

        It imports `modules` before the first job.
        """
        if sys.platform != "linux":
            return
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="nightflow-")).resolve()
            if os.pathsep not in str(self._folder):
                self._server = _started(self._folder, modules)
                os.environ["PYTHONPATH"] = os.pathsep.join([str(self._folder), *filter(None, [_path()])])
        except OSError:
            pass
        finally:
            if not self._server:
                self.stop()

    def stop(self) -> None:
        """End the server, and leave nothing of it."""
        if self._folder:
            folders = _path().split(os.pathsep)
            os.environ["PYTHONPATH"] = os.pathsep.join(folder for folder in folders if folder != str(self._folder))
            if self._server:
                self._server.communicate()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._server = self._folder = None

    def counting(self, timer: type) -> type:
        """A kind of Snakemake's ``BenchmarkTimer`` that counts the workers, no children of the processes that wait."""
        if not (folder := self._folder):
            return timer

        class Timer(timer):
            def __init__(self, *arguments):
                super().__init__(*arguments)
                self.main = _job(self.pid, folder)

            def cancel(self) -> None:
                super().cancel()
                for seconds, memory in _usage(self.pid, folder):
                    record = self.bench_record
                    record.data_collected, record.cpu_time, record.cpu_usage = True, seconds, 100 * seconds
                    record.max_rss = max(record.max_rss or 0, memory)

        return Timer


def _path() -> str:
    return os.environ.get("PYTHONPATH", "")


def _started(folder: Path, modules: Iterable[str]) -> subprocess.Popen:
    """The server, which finds the socket of its jobs listening, so that none comes too early."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(folder / handover.SOCKET))
        listening.listen()
        (folder / "sitecustomize.py").symlink_to(handover.__file__)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "nightflow.forkserver", str(folder), str(listening.fileno()), *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_ONE_THREAD},
            pass_fds=[listening.fileno()],
        )


def _of_client(pid: int, folder: Path, ending: str = "") -> list[Path]:
    """Files of the server about the job whose process, or that one's child, waits for it."""
    return [path for path in folder.glob(f"*-*{ending}") if str(pid) in path.stem.split("-")]


def _usage(pid: int, folder: Path) -> Iterator[tuple[float, float]]:
    """CPU seconds and largest memory, in MiB, of a job that has ended."""
    for path in _of_client(pid, folder, ".usage"):
        with contextlib.suppress(OSError):
            seconds, memory = map(float, path.read_text(encoding="utf-8").split())
            path.unlink()
            yield seconds, memory


def _job(pid: int, folder: Path):
    """The process of a job, whose worker is like a child of it."""
    import psutil

    class Job(psutil.Process):
        def children(self, recursive: bool = False) -> list[psutil.Process]:
            for link in _of_client(self.pid, folder):
                with contextlib.suppress(OSError, ValueError, psutil.Error):
                    worker = psutil.Process(int(os.readlink(link)))
                    return [worker, *worker.children(recursive)]
            return super().children(recursive)

    return Job(pid)
