"""The command line: words in, exit status out."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from erk_bench import entry as program

if __name__ == "__main__":  # before the imports below
    program.prepare()

import erk_bench
from erk_bench.base import stopping, terminal
from erk_bench.base.config_files import searching
from erk_bench.base.errors import DamagedError, UserError, unknown_name
from erk_bench.commands import COMMANDS, FORMER, config_dir
from erk_bench.commands.completion import VARIABLE, complete
from erk_bench.commands.help import command_help, main_help, topic_help

HELP = ("-h", "--help")
HEALINGS = 3  # more would mean a disk that cannot be used


def main(words: Sequence[str] | None = None, ready: Callable[[], None] = lambda: None) -> int:
    """Entry point of `erk-bench`; returns the exit status. ready: called once all is imported."""
    words = list(sys.argv[1:] if words is None else words)
    try:
        folders, words = config_dir.parted(words)
        with searching(folders):
            return _healed(words, ready)
    except UserError as error:
        print(f"erk-bench: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return _ended(stopping.INTERRUPTED)
    except stopping.Terminated:
        return _ended(stopping.TERMINATED)
    except stopping.Stopped:
        return _ended(stopping.STATUS)
    except BrokenPipeError:  # the reader of our output, such as 'head', has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        print(f"erk-bench: '{str(error.filename)[:40]}...' is too long for a file name", file=sys.stderr)
        return UserError.status


def _ended(status: int) -> int:
    print(f"erk-bench: {stopping.MESSAGES[status]}", file=sys.stderr)
    return status


def _healed(words: list[str], ready: Callable[[], None]) -> int:
    """Run a command; where it finds damaged files, which it sets aside, once more to make them anew."""
    for _ in range(HEALINGS):
        try:
            return _dispatch(words, ready)
        except DamagedError as error:
            print(f"warning: {error}", file=sys.stderr)
    return _dispatch(words, ready)


def _dispatch(words: list[str], ready: Callable[[], None]) -> int:
    name, *rest = words or ["help"]
    if name in (*HELP, "help"):
        print(_help(rest))
        return 0
    if name == "--version":
        print(f"erk-bench {erk_bench.__version__}")
        return 0
    name = FORMER.get(name, name)
    if name not in COMMANDS:
        raise unknown_name("command", name, [*COMMANDS, "--help", "--version"])
    asked = [word for word in HELP if word in rest]
    if asked:
        after = rest[rest.index(asked[0]) + 1 :][:1]
        print(topic_help(after[0]) if after and after[0].isalpha() else command_help(COMMANDS[name]))
        return 0
    options, others = COMMANDS[name].parse(rest)
    import_module("erk_bench.commands.compose")  # takes seconds, and torch and Hydra with it
    ready()
    return COMMANDS[name].run(options, others)


def _help(words: list[str]) -> str:
    """Of everything, of a command, or of a group's choices."""
    if not words:
        return main_help(COMMANDS)
    return command_help(COMMANDS[words[0]]) if words[0] in COMMANDS else topic_help(words[0])


def entry() -> None:
    """The command: returns its status to the system."""
    program.prepare()
    if VARIABLE in os.environ:
        print(complete(COMMANDS, os.environ[VARIABLE]))
        return
    status = main(ready=stopping.listen)
    error = terminal.lost()
    if error is not None:
        print(
            f"erk-bench: the output could not be written ({error.strerror}); the files are there",
            file=sys.stderr,
        )
    sys.exit(status or int(error is not None))


if __name__ == "__main__":
    entry()
