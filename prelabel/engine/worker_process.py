"""The process of one worker, as the driver sees it.

This module imports nothing heavy: the first process is started before the driver has imported what it needs itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from multiprocessing import Pipe
from queue import SimpleQueue
from typing import Any

from prelabel.storage.address import one_line

#: Seconds to wait for a killed process to exit.
_KILL_TIMEOUT_S = 5.0

#: Seconds to wait for a process to exit after its connection has closed.
_EXIT_TIMEOUT_S = 5.0

#: Bytes to keep of what a process printed.
_KEPT_OUTPUT = 1 << 16

#: The code that a worker's process runs. It uses the module search path of this process, and imports faster without
#: searches for reference cycles.
_BOOT = (
    "import gc, sys; gc.disable(); from multiprocessing.connection import Connection; "
    "connection = Connection(int(sys.argv[1])); sys.path[:] = connection.recv(); "
    "from prelabel.engine.process_pool import main; main(connection, sys.argv[2])"
)

#: Tells a process to import TensorFlow at once.
TENSORFLOW = "tensorflow"


class WorkerProcess:
    """A worker's process, as the driver sees it.

    Args:
        uses_tensorflow: Whether it imports TensorFlow immediately, before it receives its spec.
    """

    def __init__(self, *, uses_tensorflow: bool = True) -> None:
        self.connection, other_end = Pipe()
        # Holds the error of a process that cannot start; the output of libraries does not belong on the terminal.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process lives
        with other_end:
            self._popen = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    _BOOT,
                    str(other_end.fileno()),
                    TENSORFLOW * uses_tensorflow,
                    "prelabel worker",
                ],
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
                pass_fds=[other_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                start_new_session=True,  # Ctrl-C goes to this process only, which ends its workers itself
            )
        self.pid = self._popen.pid
        #: The end of what it printed, once it has ended.
        self.output = b""
        # Messages go through a queue, since the driver must not block: a hanging process reads nothing, and the links
        # of a shard do not fit into the pipe's buffer.
        self._outbox: SimpleQueue[Any] = SimpleQueue()
        self._sender = threading.Thread(target=self._deliver, name="outbox", daemon=True)
        self._sender.start()
        self.send(list(sys.path))

    def send(self, message: object) -> None:
        """Send a message without waiting for the process to read it. A dead process shows when its results are read."""
        self._outbox.put(message)

    def _deliver(self) -> None:
        while (message := self._outbox.get()) is not None:
            with contextlib.suppress(OSError):
                self.connection.send(message)

    @property
    def last_line(self) -> str:
        """The last line that it printed before it ended, or `""`."""
        lines = self.output.decode("utf-8", "replace").strip().splitlines()
        return one_line(lines[-1]) if lines else ""

    def kill(self) -> None:
        """Kill the process without waiting for its end."""
        self._popen.kill()

    def end(self, *, is_alive: bool = True) -> str:
        """Kill the process if it is alive, and clean up. A second call does nothing.

        Args:
            is_alive: Whether the process may still be alive; False once its connection has closed.

        Returns:
            Why the process died, if it was already dead: one line, worded as for workers on Ray.
        """
        if self._errors.closed:
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            # The connection closes a moment before the process exits: wait for its own exit code.
            self._popen.wait(0 if is_alive else _EXIT_TIMEOUT_S)
        code = self._popen.returncode
        self.kill()
        self._outbox.put(None)
        self._sender.join(_KILL_TIMEOUT_S)
        self.connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(_KILL_TIMEOUT_S)
        with self._errors as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _KEPT_OUTPUT))
            self.output = file.read()
        if (code or 0) > 0 and self.last_line:
            # The last line of a traceback: most likely something is not installed.
            return f"a worker failed to start: {self.last_line}"
        if code is not None and code < 0:
            return f"the worker process was killed by {_signal(-code)}"
        return "the worker process died"


def _signal(number: int) -> str:
    """`9` -> `signal 9 (SIGKILL)`, with its usual cause."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    sender = ", sent manually or by the system when memory ran out" if number == signal.SIGKILL else ""
    return f"signal {number} ({name}){sender}"
