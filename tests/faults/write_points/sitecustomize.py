"""Kills the command that imports this at its n-th write: a statement that changes a database, or a change of a file in its folder.

`JOINTNAS_KILL_AT` is n, 0 for never; the number of writes is kept in the file `JOINTNAS_WRITES` when the command ends.
"""

import atexit
import os
import pathlib
import signal
import sqlite3
import sys

CHANGES = ("BEGIN", "COMMIT", "INSERT", "UPDATE", "CREATE", "ALTER", "PRAGMA")
FILES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.copyfile", "shutil.rmtree")

kill_at, writes = int(os.environ.get("JOINTNAS_KILL_AT", "0")), 0


def write():
    global writes
    writes += 1
    if writes == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)


def watch(event, arguments):
    if event in FILES:
        write()
    elif event == "open":
        path, mode, flags = arguments
        changes = any(sign in mode for sign in "wax+") if mode else flags & (os.O_WRONLY | os.O_RDWR)
        if changes and isinstance(path, str) and os.path.abspath(path).startswith(os.getcwd()):
            write()


def connect(*arguments, real=sqlite3.connect, **options):
    connection = real(*arguments, **options)
    connection.set_trace_callback(lambda text: write() if text.lstrip().upper().startswith(CHANGES) else None)
    return connection


if any(os.path.basename(argument) == "jointnas" for argument in sys.orig_argv):  # not in servers and workers
    sys.addaudithook(watch)
    sqlite3.connect = connect
    if target := os.environ.get("JOINTNAS_WRITES"):
        atexit.register(lambda: pathlib.Path(target).write_text(str(writes)))
