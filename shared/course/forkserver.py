"""Python processes for many lessons and for the tests, forked from one that has imported the libraries already.

Importing PyTorch, transformers and scikit-learn is half of what a notebook takes in profile `tiny`; eleven notebooks and
the tests that start a training in a process of its own would each do it again. A fork shares the imported modules and
nothing else: every notebook still has an interpreter, a folder and an environment of its own.

python -P shared/course/forkserver.py MODULE ARGUMENTS...   is   python -u -m MODULE ARGUMENTS..., with a server and without
python -P shared/course/forkserver.py --serve SOCKET LIBRARY...   is the server; it ends when its standard input does
"""

import contextlib
import importlib
import json
import logging
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator

# With AVX512-BF16, bitsandbytes looks for a kernel of the Hub while it is imported and warns where it finds none. The course wants none.
BITSANDBYTES_LOGGER = "bitsandbytes.backends.cpu.ops"
ADDRESS = "COURSE_FORKSERVER"  # the environment variable that names the server's socket
LIBRARIES = (
    "torch", "transformers.trainer", "transformers.trainer_seq2seq", "datasets", "peft", "accelerate", "bitsandbytes", "evaluate", "pandas",
    "sklearn.linear_model", "sklearn.metrics", "sklearn.feature_extraction.text", "matplotlib.pyplot", "rouge_score.rouge_scorer",
    "sacrebleu", "jinja2", "jsonschema", "IPython.core.completer", "ipykernel.kernelapp",
)  # fmt: skip


def can_fork() -> bool:
    """Whether processes are forked here: Windows has no `fork`, and on macOS its system libraries do not survive one."""
    return sys.platform == "linux" and hasattr(os, "fork")


def command(module: str, *arguments: str) -> list[str]:
    """What to start instead of `python -u -m module arguments`; that itself where processes cannot be forked."""
    if not can_fork():
        return [sys.executable, "-u", "-m", module, *arguments]
    return [sys.executable, "-P", "-u", os.path.abspath(__file__), module, *arguments]


@contextlib.contextmanager
def server(libraries: tuple[str, ...] = LIBRARIES) -> Iterator[None]:
    """While it is open, this process and those that it starts have their kernels and `command`s forked.

    Nothing happens on macOS and Windows (`can_fork`), nor where a server listens already.
    """
    if not can_fork() or ADDRESS in os.environ:
        yield
        return
    folder = tempfile.mkdtemp(prefix="course-forkserver-")
    os.environ[ADDRESS] = os.path.join(folder, "socket")
    process = subprocess.Popen(command("--serve", os.environ[ADDRESS], *libraries), stdin=subprocess.PIPE)
    fork_kernels()
    try:
        yield
    finally:
        process.kill()
        process.wait()
        del os.environ[ADDRESS]
        shutil.rmtree(folder, ignore_errors=True)


def fork_kernels() -> None:
    """Have this process start its notebooks' kernels by `command`."""
    kernelspec = importlib.import_module("ipykernel.kernelspec")
    kernelspec.make_ipkernel_cmd = lambda *_, **__: command("ipykernel_launcher", "-f", "{connection_file}")


def serve(path: str, libraries: list[str]) -> None:
    """Import the libraries, then fork a process for everyone who asks on the socket, until standard input ends."""
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # what a kernel sets before matplotlib is imported
    logging.getLogger(BITSANDBYTES_LOGGER).setLevel(logging.ERROR)  # as runtime.setup does, which comes too late here
    for name in libraries:
        with contextlib.suppress(ImportError):  # a library that is missing is the tests' to report, not ours
            importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forked
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path + ".new")
        server.listen(16)
        os.rename(path + ".new", path)  # who finds it can connect
        while sys.stdin not in select.select([server, sys.stdin], [], [])[0]:
            client, _ = server.accept()
            if os.fork() == 0:
                server.close()
                sys.exit(become(client))
            client.close()


def become(client: socket.socket) -> int:
    """Turn this process into the one that a client asks for; its exit status."""
    head, descriptors, _, _ = socket.recv_fds(client, 8, 3)
    asked = json.loads(_received(client, int.from_bytes(head, "big")))
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    # the server's streams remember whether they could seek in what stood there before
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, encoding="utf8", closefd=False) for number in (1, 2))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.path.insert(0, asked["folder"])  # as python -m has it
    threading.Thread(target=_obey, args=(client,), daemon=True).start()
    fork_kernels()
    sys.argv = asked["arguments"]
    code = 1
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    client.sendall(bytes([code]))
    return code


def _received(client: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size and (part := client.recv(size - len(parts))):
        parts += part
    return bytes(parts)


def _obey(client: socket.socket) -> None:
    """Pass on the signals that reach the client, and die with it."""
    while order := client.recv(1):
        os.kill(os.getpid(), order[0])
    os.kill(os.getpid(), signal.SIGKILL)


def ask(path: str, arguments: list[str]) -> int:
    """Have the server fork a process in this one's place; its exit status."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        asked = json.dumps({"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, frame: server.sendall(bytes([number])))
        socket.send_fds(server, [len(asked).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(asked)
        parent = os.getppid()
        while os.getppid() == parent:  # whoever started this is still there to be served
            if select.select([server], [], [], 1)[0]:
                return (server.recv(1) or b"\x01")[0]
        return 1


def main(arguments: list[str]) -> int:
    if arguments[0] == "--serve":
        serve(arguments[1], arguments[2:])
        return 0
    path = os.environ.get(ADDRESS)
    for _ in range(600):  # the server may still be importing
        if not path or os.path.exists(path):
            break
        time.sleep(0.1)
    if path and os.path.exists(path):
        return ask(path, arguments)
    os.execv(sys.executable, [sys.executable, "-u", "-m", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
