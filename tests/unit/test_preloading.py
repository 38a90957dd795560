"""Steps that run in forks of a server do what they would do in a process of their own, whatever happens to it."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from nightflow import preloading

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the server is started on Linux only")

IN_FORK = "from pathlib import Path; print(Path('/proc/self/cmdline').read_text().split(chr(0))[1] == '-P')"


@pytest.fixture(autouse=True)
def signals_of_a_terminal():
    """What these tests start heeds these signals, also where the tests run in the background of a script."""
    heeded = {signal.SIGINT: signal.default_int_handler, signal.SIGQUIT: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in heeded.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def path(root, monkeypatch, tmp_path):
    """The library first, as in a run, and a folder of modules; no server of a run that this test may be part of."""
    (tmp_path / "modules").mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root / "workflow" / "scripts"), str(tmp_path / "modules")]))


@pytest.fixture
def server(path, monkeypatch, tmp_path):
    """A started server, its folder alone in a temporary folder of its own."""
    with tempfile.TemporaryDirectory(prefix="nf-") as short:  # a socket's path has at most 107 bytes
        monkeypatch.setattr(tempfile, "tempdir", short)
        steps = preloading.Preloading()
        steps.start([])
        assert steps._server
        try:
            yield steps
        finally:
            steps.stop()
            assert not os.listdir(short)


def script(folder: Path, text: str, name: str = "step") -> Path:
    """A script where Snakemake puts them."""
    scripts = folder / ".snakemake" / "scripts"
    scripts.mkdir(parents=True, exist_ok=True)
    path = scripts / f"tmp{len(list(scripts.iterdir()))}.{name}.py"
    path.write_text(text)
    return path


PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


def begun(path: Path, **options) -> subprocess.Popen:
    options = {"cwd": path.parents[2], **PIPES, "text": True, **options}
    return subprocess.Popen([sys.executable, str(path)], **options)


def done(path: Path, **options) -> tuple[int, str, str]:
    process = begun(path, stdin=subprocess.PIPE, **options)
    output, errors = process.communicate("from outside\n", timeout=60)
    return process.returncode, output, errors


def until(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def ignores(pid: int, number: signal.Signals) -> bool:
    ignored = int(re.search(r"SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())[1], 16)
    return bool(ignored >> (number - 1) & 1)


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


ENDS = {
    "runs through": "print('done')",
    "a status": "import sys; print('before'); sys.exit(3)",
    "a large status": "raise SystemExit(256 + 5)",
    "words": "import sys; sys.exit('nightflow: the disk is full')",
    "no status": "raise SystemExit",
    "an error": "def main():\n    raise ValueError('of the program')\nmain()",
    "an error in the library": "import json; json.loads('{')",
    "no program": "this is no Python",
    "leaves at once": "import os; os._exit(9)",
    "killed": "import os; os.kill(os.getpid(), 9)",
    "terminated": "import os; os.kill(os.getpid(), 15)",
    "crashed": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "interrupted": "import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(5)",
    "at exit": "import atexit; atexit.register(print, 'tidied'); print('worked')",
    "a pipe that is closed": "import os, sys; os.close(1); sys.exit(4)",
    "reads": "print(input())",
    "surroundings": "import os, sys, json; print(os.getcwd(), sys.argv, __name__, __file__);"
    "print(json.dumps({k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}, sort_keys=True))",
    "signals": "import signal; print([signal.getsignal(n) for n in (2, 15, 17, 13, 29)], signal.set_wakeup_fd(-1))",
    "descriptors": "import os; print(sorted(os.listdir('/proc/self/fd'))[:3])",
    "no output": "import sys; sys.stdout = None",
    "a thread that goes on": "import threading, time\ndef late(): time.sleep(0.1); print('late')\n"
    "threading.Thread(target=late).start()",
    "starts programs": "import subprocess, sys; print(subprocess.run([sys.executable, '-c', 'print(6)']).returncode)",
    "threads": "from concurrent.futures import ThreadPoolExecutor as P\nwith P(3) as p: print([*p.map(abs, [-1, -2])])",
}


@pytest.mark.parametrize("text", ENDS.values(), ids=ENDS.keys())
def test_a_step_ends_in_a_fork_as_in_a_process_of_its_own(server, tmp_path, text, monkeypatch):
    path = script(tmp_path, text)
    forked = done(path)
    monkeypatch.setenv("PYTHONPATH", os.environ["PYTHONPATH"].partition(os.pathsep)[2])
    assert forked == done(path)


def test_what_a_step_prints_is_seen_at_once_on_a_terminal(server, tmp_path):
    ours, terminal = os.openpty()
    process = begun(script(tmp_path, "import time; print('begun'); time.sleep(600)"), stdout=terminal)
    seen = b""
    while not seen.endswith(b"\n") and select.select([ours], [], [], 20)[0]:
        seen += os.read(ours, 99)
    process.kill()
    process.communicate()
    assert seen == b"begun\r\n"
    for end in (ours, terminal):
        os.close(end)


def test_a_step_runs_in_a_fork(server, tmp_path):
    assert done(script(tmp_path, IN_FORK)) == (0, "True\n", "")


def test_what_a_step_starts_does_not_come_to_the_server(server, tmp_path):
    code, output, _ = done(script(tmp_path, "import os; print(os.environ['PYTHONPATH'])"))
    assert (code, output.strip()) == (0, os.environ["PYTHONPATH"].partition(os.pathsep)[2])


@pytest.mark.parametrize(
    "arguments", [["-c", IN_FORK, "x"], ["-u", "{script}"], ["{script}", "more"], ["{elsewhere}"]], ids=str
)
def test_other_programs_are_left_alone(server, tmp_path, arguments):
    elsewhere = tmp_path / "program.py"
    elsewhere.write_text(IN_FORK)
    names = {"script": script(tmp_path, IN_FORK), "elsewhere": elsewhere}
    arguments = [argument.format(**names) if argument.startswith("{") else argument for argument in arguments]
    output = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True).stdout
    assert output == "False\n"


def test_a_server_that_came_to_have_threads_is_not_forked(server, tmp_path):
    """As a module that jobs import may start them: what such a thread holds locked would never be free in a fork."""
    module = "import threading, time; threading.Thread(target=time.sleep, args=[60], daemon=True).start()"
    (tmp_path / "modules" / "busy.py").write_text(module)
    outputs = [done(script(tmp_path, f"import busy; {IN_FORK}"))[1] for _ in range(3)]
    assert outputs == ["True\n", "False\n", "False\n"]


@pytest.mark.parametrize(
    "start", ["exec {} <&-", "exec {} >&2 2>&-", "exec env =unnamed {}", "mkdir gone; cd gone; rmdir ../gone; exec {}"]
)
def test_a_process_that_no_fork_can_be_like_runs_by_itself(server, tmp_path, start):
    command = f"{sys.executable} {script(tmp_path, IN_FORK)}"
    started = ["bash", "-c", start.format(command)]
    ended = subprocess.run(started, capture_output=True, text=True, cwd=tmp_path)
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "False\n")


def test_a_server_with_few_descriptors(server, tmp_path):
    """Each job that waits takes one, and three more as it comes; who gets none runs by itself."""
    assert done(script(tmp_path, IN_FORK))[1] == "True\n"
    open_now = len(os.listdir(f"/proc/{server._server.pid}/fd"))
    resource.prlimit(server._server.pid, resource.RLIMIT_NOFILE, (open_now + 5,) * 2)
    paths = [script(tmp_path, f"import time; time.sleep(0.3); print({n})") for n in range(8)]
    processes = [begun(path) for path in paths]
    assert [(*p.communicate(timeout=30), p.returncode) for p in processes] == [(f"{n}\n", "", 0) for n in range(8)]


def test_an_environment_too_large_for_a_socket_is_no_obstacle(server, tmp_path, monkeypatch):
    for number in range(10):
        monkeypatch.setenv(f"NIGHTFLOW_LARGE_{number}", "x" * 100_000)
    code, output, _ = done(script(tmp_path, "import os; print(len(os.environ['NIGHTFLOW_LARGE_7']))"))
    assert (code, output) == (0, "100000\n")


def test_the_server_imports_what_a_second_job_would_import_again(server, tmp_path):
    text = "import sys; print('imaplib' in sys.modules); import imaplib"
    assert [done(script(tmp_path, text, "mail"))[1] for _ in range(3)] == ["False\n", "True\n", "True\n"]
    assert done(script(tmp_path, "import sys; print('imaplib' in sys.modules)", "other"))[1] == "True\n"


def test_a_module_that_cannot_be_imported_again_is_the_jobs_affair(server, tmp_path):
    text = "import sys, types; sys.modules['made_up'] = types.ModuleType('made_up'); print('ok')"
    assert [done(script(tmp_path, text))[1] for _ in range(3)] == ["ok\n"] * 3


def test_many_jobs_at_once(server, tmp_path):
    paths = [script(tmp_path, f"import time; time.sleep(0.05); print({n}); raise SystemExit({n})") for n in range(24)]
    processes = [begun(path) for path in paths]
    assert [(p.communicate()[0], p.returncode) for p in processes] == [(f"{n}\n", n) for n in range(24)]


def test_a_worker_ends_with_the_process_that_waits_for_it(server, tmp_path):
    """Snakemake, or the user, kills the process that they know."""
    process = begun(script(tmp_path, "import os, time; print(os.getpid(), flush=True); time.sleep(600)"))
    worker = int(process.stdout.readline())
    assert worker != process.pid and alive(worker)
    process.kill()
    until(lambda: not alive(worker))
    process.communicate()
    assert done(script(tmp_path, IN_FORK))[1] == "True\n"


def test_a_step_is_done_though_the_server_is_killed(server, tmp_path):
    """By the worker, or once more by the process that waited, where the worker was killed too."""
    text = "import os, time; print(os.getppid(), os.getpid(), flush=True); time.sleep(1); print('done')"
    process, both = begun(script(tmp_path, text)), begun(script(tmp_path, text))
    parent, _ = map(int, process.stdout.readline().split())
    _, worker = map(int, both.stdout.readline().split())
    assert parent == server._server.pid
    os.kill(parent, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    assert process.communicate(timeout=30)[0] == "done\n" and process.returncode == 0
    assert both.communicate(timeout=30)[0].endswith("done\n") and both.returncode == 0
    assert done(script(tmp_path, IN_FORK))[1] == "False\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT])
def test_the_server_ends_with_the_run_and_takes_its_folder_along(path, number):
    """However the run ends; to all of its processes goes what comes from a terminal or a job system."""
    text = (
        "import tempfile, time; from nightflow.preloading import Preloading; tempfile.tempdir = {!r};"
        "p = Preloading(); p.start([]); print(p._server.pid, flush=True); time.sleep(600)"
    )
    with tempfile.TemporaryDirectory(prefix="nf-") as short:
        command = [sys.executable, "-c", text.format(short)]
        with subprocess.Popen(command, **PIPES, text=True, start_new_session=True) as run:
            pid = int(run.stdout.readline())
            try:
                until(lambda: number == signal.SIGKILL or ignores(pid, number), 5)
                os.kill(run.pid, number) if number == signal.SIGKILL else os.killpg(run.pid, number)
            finally:
                run.kill()
        until(lambda: not alive(pid))
        assert not os.listdir(short)


def test_a_job_at_work_outlives_a_killed_run_and_its_server_waits_for_it(server, tmp_path):
    """As jobs do without a server."""
    process = begun(script(tmp_path, "import time; print('begun', flush=True); time.sleep(1); print('done')"))
    process.stdout.readline()
    server._server.stdin.close()
    assert process.communicate(timeout=30)[0] == "done\n"
    until(lambda: server._server.poll() is not None)


@pytest.mark.parametrize("group", [False, True], ids=["the process", "all"])
def test_an_interrupt_reaches_a_job_that_has_not_begun(server, tmp_path, group):
    """While the server is busy."""
    os.kill(server._server.pid, signal.SIGSTOP)
    process = begun(script(tmp_path, "print('begun')"), start_new_session=True)
    until(lambda: any("socket:" in os.readlink(end) for end in Path(f"/proc/{process.pid}/fd").iterdir()))
    (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
    time.sleep(0.1)
    os.kill(server._server.pid, signal.SIGCONT)
    assert process.communicate(timeout=30)[0] == "" and process.returncode == -signal.SIGINT
    assert done(script(tmp_path, IN_FORK))[1] == "True\n"


def test_interrupts_are_ignored_where_the_run_ignores_them(path, tmp_path):
    """As in the background of a shell's script."""
    job = script(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGINT); " + IN_FORK)
    run = (
        "import subprocess, sys; from nightflow.preloading import Preloading;"
        f"p = Preloading(); p.start([]); subprocess.run([sys.executable, {str(job)!r}]); p.stop()"
    )
    command = ["bash", "-c", 'trap "" INT; exec "$@"', "bash", sys.executable, "-c", run]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "True\n"


def test_nobody_else_has_access(server):
    folder = Path(os.environ["PYTHONPATH"].split(os.pathsep)[0])
    assert folder.stat().st_mode & 0o077 == 0


def test_without_a_place_for_its_socket_there_is_no_server(path, monkeypatch, tmp_path):
    long = tmp_path / ("a" * 100)
    long.mkdir()
    divided = tmp_path / "a:b"  # as the path on which Python looks for modules is
    divided.mkdir()
    for place in (long, tmp_path / "absent", divided):
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        before = os.environ["PYTHONPATH"]
        steps = preloading.Preloading()
        steps.start([])
        assert steps._server is None and os.environ["PYTHONPATH"] == before
        steps.stop()
    assert not list(long.iterdir()) and not list(divided.iterdir())


def test_an_interrupted_start_leaves_nothing(path, monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    (place := tmp_path / "place").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setattr(preloading, "_started", interrupted)
    with pytest.raises(KeyboardInterrupt):
        preloading.Preloading().start([])
    assert not list(place.iterdir())


def test_a_sitecustomize_of_the_user_is_run(server, tmp_path, monkeypatch):
    """In processes of their own; in forks it would have to be before the server's start."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import builtins, sys; builtins.of_the_user = __file__, sys.modules['sitecustomize'].__file__"
    )
    first, *rest = os.environ["PYTHONPATH"].split(os.pathsep)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([first, str(tmp_path / "site"), *rest]))
    command = [sys.executable, "-c", "import sys; print(of_the_user, 'nightflow-' in ''.join(sys.path))"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output == f"{(str(tmp_path / 'site' / 'sitecustomize.py'),) * 2} False\n"


def test_the_path_is_again_what_it_was(path, monkeypatch):
    """Empty entries are the folder in which Python is started."""
    monkeypatch.setenv("PYTHONPATH", before := os.environ["PYTHONPATH"] + "::lib:")
    steps = preloading.Preloading()
    steps.start([])
    assert os.environ["PYTHONPATH"].partition(os.pathsep)[2] == before
    steps.stop()
    assert os.environ["PYTHONPATH"] == before


@pytest.fixture
def benchmarked(server, monkeypatch):
    """Snakemake's, as the workflow changes it."""
    from snakemake import benchmark

    monkeypatch.setattr(benchmark, "BenchmarkTimer", server.counting(benchmark.BenchmarkTimer))
    return benchmark.benchmarked


def test_benchmarks_count_the_worker(benchmarked, tmp_path):
    """CPU time and memory, of a job that ends before Snakemake looks twice, and the programs that it starts."""
    work = "import time\nfilled = b'1' * 200_000_000\nwhile time.process_time() < 0.2: pass\n"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}], check=True)\n"
    process = begun(script(tmp_path, work + program))
    with benchmarked(process.pid) as record:
        process.wait(timeout=60)
    process.communicate()
    assert 0.4 <= record.cpu_time < 2 and 190 < record.max_rss < 600


def test_benchmarks_see_a_worker_at_work(benchmarked, tmp_path):
    process = begun(script(tmp_path, "import time\nfilled = b'1' * 200_000_000\nprint(1, flush=True)\ntime.sleep(600)"))
    process.stdout.readline()
    with benchmarked(process.pid) as record:
        until(lambda: (record.max_uss or 0) > 190)
        process.kill()
    process.communicate()
