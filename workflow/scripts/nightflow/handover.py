"""Hands the script that a Python process is to run to the server of the run (`forkserver`), and ends as it ends there.

`preloading` puts this file as ``sitecustomize.py`` beside the server's socket, in a folder that is first on the path of
the run's jobs: Python runs it before the script and before whatever the script imports, so that it imports nothing that
is not built in. Where no server takes the job, the process goes on and runs its script itself.
"""

import os
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))
SOCKET = "socket"
SEPARATOR = "\0"  # in no path and no variable
STREAMS = (0, 1, 2)
BEGUN = b"begun"


def script_of_snakemake():
    """The script that this process is to run, where Snakemake made it and there are no other arguments; else None."""
    script, *others = sys.orig_argv[1:] or [""]
    made = os.path.dirname(script).endswith(os.path.join(".snakemake", "scripts"))
    return script if made and not others else None


def hand_over(script):
    """Have the server run `script` in the folder, with the environment and the streams of this process; end like it."""
    import _signal
    import _socket

    interrupt, status = _signal.getsignal(_signal.SIGINT), b""
    if interrupt == _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # it ends this process, and the job does not begin
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        ask(connection, script, _socket)
        if connection.recv(len(BEGUN)):
            _signal.signal(_signal.SIGINT, _signal.SIG_IGN)  # from the keyboard it reaches the worker, too
            status = connection.recv(4)
    except OSError:
        pass
    if status:
        end_as(int.from_bytes(status, sys.byteorder, signed=True), _signal)
    connection.close()
    _signal.signal(_signal.SIGINT, interrupt)


def ask(connection, script, sockets):
    """Send the server what a process needs to run `script` as this one would."""
    if connection.fileno() in STREAMS:
        raise OSError("a stream is closed")
    environment = [f"{name}={value}" for name, value in os.environ.items()]
    request = os.fsencode(SEPARATOR.join([f"{os.getppid()}-{os.getpid()}", script, os.getcwd(), *environment]))
    streams = b"".join(number.to_bytes(4, sys.byteorder) for number in STREAMS)
    connection.connect(os.path.join(FOLDER, SOCKET))
    connection.sendmsg([request], [(sockets.SOL_SOCKET, sockets.SCM_RIGHTS, streams)])


def end_as(status, signals):
    """End with an exit status or, where it is negative, by that signal."""
    if status < 0:
        if -status != signals.SIGKILL:
            signals.signal(-status, signals.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def leave_path():
    """Take the server's folder, which goes with the run, off the path of this process and of those that it starts."""
    sys.path[:] = [folder for folder in sys.path if folder != FOLDER]
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join(folder for folder in folders if folder != FOLDER)


def run_hidden():
    """Run the ``sitecustomize`` that this one hides, if there is one."""
    from _frozen_importlib import module_from_spec

    found = (finder.find_spec("sitecustomize", None) for finder in sys.meta_path)
    if (spec := next(filter(None, found), None)) and spec.loader:
        sys.modules["sitecustomize"] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules["sitecustomize"])


if __name__ == "sitecustomize":
    leave_path()
    if script := script_of_snakemake():
        hand_over(script)
    run_hidden()
