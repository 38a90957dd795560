"""A Slurm of one node on this machine, for tests: started in a folder of its own, stopped by its own process ids.

Needs root and Debian's slurmctld, slurmd, slurm-client and munge. The configuration has to lie in /etc/slurm, since the
executor's jobs know no other. One that lies there already is somebody's, and nothing is started, unless it was left
over by tests that were killed.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SERVICES = ("slurmd", "slurmctld", "munged")  # in the order in which they are stopped
PROGRAMS = (*SERVICES, "sbatch", "squeue")
CONFIGURATION = Path("/etc/slurm/slurm.conf")

_MARK = "# Written by the tests of nightflow, which remove it when they end."

_TEXT = """{mark}
ClusterName=loop
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
MinJobAge=600
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory} State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why no Slurm can be started here; None if it can."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: slurmctld slurmd slurm-client munge)"
    if os.geteuid() != 0:
        return "a Slurm of one's own needs root"
    if CONFIGURATION.exists() and not left_over(CONFIGURATION.read_text()):
        return f"{CONFIGURATION} is there already: this machine has a Slurm"
    return None


def left_over(text: str) -> bool:
    """Whether a configuration is one that killed tests left behind: of theirs, and none of its services runs."""
    folder = re.search(r"^StateSaveLocation=(.*)/state$", text, re.MULTILINE)
    if folder is None:
        return False
    temporary = Path(folder[1]).parent == Path(tempfile.gettempdir()) and Path(folder[1]).name.startswith("slurm")
    unmarked = temporary and text.strip().startswith("ClusterName=loop\n")  # as tests wrote it before they marked it
    return (text.startswith(_MARK) or unmarked) and not _running(Path(folder[1]))


def _running(folder: Path) -> dict[str, int]:
    """Process ids of the services that were started in `folder` and live."""
    found = {}
    for name in SERVICES:
        with contextlib.suppress(OSError, ValueError):
            process = int((folder / "run" / f"{name}.pid").read_text())
            if Path(f"/proc/{process}/comm").read_text().strip() == name:  # and not another that has got its number
                found[name] = process
    return found


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """Slurm runs within this block."""
    for name in ("state", "spool", "log", "run"):
        (folder / name).mkdir(parents=True)
    for parent in (folder, folder / "run"):
        parent.chmod(0o755)
    CONFIGURATION.parent.mkdir(exist_ok=True)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    text = _TEXT.format(
        mark=_MARK, host=platform.node().split(".")[0], folder=folder, cores=os.cpu_count(), memory=memory // 2
    )
    CONFIGURATION.write_text(text)
    try:
        _start(folder)
        yield
    finally:
        _stop(folder)
        CONFIGURATION.unlink()


def _start(folder: Path) -> None:
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    files = {"key-file": key, "socket": folder / "run" / "munge.socket", "pid-file": folder / "run" / "munged.pid"}
    files |= {"log-file": folder / "log" / "munged.log", "seed-file": folder / "run" / "munged.seed"}
    for command in (["munged", "--force", *(f"--{k}={v}" for k, v in files.items())], ["slurmctld"], ["slurmd"]):
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    for _ in range(60):
        state = subprocess.run(["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True, timeout=60)
        if "idle" in state.stdout:
            return
        time.sleep(1)
    raise RuntimeError(f"Slurm did not come up: {state.stdout}{state.stderr}")


def _stop(folder: Path) -> None:
    subprocess.run(["scancel", "--me"], capture_output=True, timeout=60)
    for process in _running(folder).values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
        for _ in range(100):
            if not Path(f"/proc/{process}").exists():
                break
            time.sleep(0.1)
