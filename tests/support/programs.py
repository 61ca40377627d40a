# SPDX-License-Identifier: Apache-2.0
"""What tests of whole programs share: their command line, their processes, and how they end."""
import contextlib
import os
import pty
import random
import shutil
import subprocess
import sys
import tempfile
import unittest

BACKEND = os.environ.get("HAWSER_TEST_BACKEND") or "automatic"
SEED = int(os.environ.get("HAWSER_TEST_SEED") or random.SystemRandom().randrange(2**32))
PATIENCE = 60


def need_msgpack():
    """Goes on only where msgpack can be imported; first of all in a program."""
    try:
        import msgpack  # noqa: F401
    except ImportError:  # another interpreter is in front of the system's, which has it
        system = "/usr/bin/python3"
        if os.path.exists(system) and not os.path.samefile(sys.executable, system):
            os.execv(system, [system, *sys.argv])
        print("SKIPPED: python3-msgpack is not installed")
        sys.exit(77)


def take_paths(count, usage):
    """The first arguments, which name the programs to test; the rest is for unittest."""
    if len(sys.argv) <= count:
        sys.exit(usage)
    paths = [os.path.abspath(path) for path in sys.argv[1:count + 1]]
    del sys.argv[1:count + 1]
    return paths


def run_tests():
    """Ends with 77 when something could not run here and nothing failed."""
    print(f"seed {SEED}, backend {BACKEND}", file=sys.stderr)
    result = unittest.main(exit=False, verbosity=2).result
    if not result.wasSuccessful() or result.testsRun == 0:
        sys.exit(1)
    sys.exit(77 if result.skipped else 0)


class ProgramCase(unittest.TestCase):
    """Has a folder to work in and starts processes; both are gone when the case has ended."""

    def setUp(self):
        self.work = tempfile.mkdtemp(prefix="hawser-test-")
        self.processes = []

    def tearDown(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()
        subprocess.run(["chmod", "-R", "u+rwx", self.work], check=False)
        shutil.rmtree(self.work, ignore_errors=True)

    def start(self, *command, **options):
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        process = subprocess.Popen(command, **options)
        self.processes.append(process)
        return process

    def open_terminal(self):
        """Both sides: ours, and that of a program."""
        try:
            return pty.openpty()
        except OSError as error:
            self.skipTest(f"no terminal to be had here: {error}")

    def rest_of(self, terminal):
        """What comes until the program has ended; closes our side."""
        drawn = b""
        with contextlib.suppress(OSError):  # the end of a terminal is an error
            while piece := os.read(terminal, 4096):
                drawn += piece
        os.close(terminal)
        return drawn
