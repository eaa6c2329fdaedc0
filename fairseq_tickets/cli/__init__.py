"""The `fairseq-tickets` command: one sub-command per arrow of the design, each a module that is loaded when called."""

from __future__ import annotations

import argparse
import difflib
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from fairseq_tickets.cli.signals import stop_signal, stoppable
from fairseq_tickets.documents import shown
from fairseq_tickets.errors import UserError, one_line

COMMANDS = {
    "import": ("import_", "turn a Hugging Face folder into a fairseq checkpoint, or a peft adapter into a delta"),
    "prepare": ("prepare", "turn GLUE-layout files into fairseq binary data"),
    "importance": ("importance", "score every attention head and FFN of a fine-tuned model"),
    "prune": ("prune", "turn scores into a super ticket"),
    "extract": ("extract", "turn a pre-trained and an L1-fine-tuned checkpoint into a dominant ticket"),
    "salience": ("salience", "find a dominant ticket in one pass over some examples, without an L1 run"),
    "explain": ("explain", "compare where L1 fine-tuning moved a model with how large its inputs are"),
    "jaccard": ("jaccard", "compare tickets: pairwise Jaccard similarities and their means"),
    "dimensions": ("dimensions", "print the dimension tables of dominant tickets"),
    "run": ("run", "run a whole experiment of a paper from a protocol file; resumable"),
    "table": ("table", "make the papers' tables from result files"),
    "plot": ("plot", "make the papers' figures from result and ticket files"),
    "claims": ("claims", "hold the papers' claims against results, one by one: effect, interval, verdict"),
    "report": ("report", "write every experiment as one page for the browser"),
    "show": ("show", "print any ticket, scores, counts, salience, delta or result file for reading"),
    "export": ("export", "write a plain dense checkpoint, a Hugging Face folder, a small delta file or a peft adapter"),
    "options": ("options", "print every option of the tasks, architectures, criteria and optimizer for fairseq-train"),
    "demo": ("demo", "the whole road on an embedded model and data: what `make demo` runs"),
    "user-dir": ("user_dir", "print the folder for fairseq-train --user-dir"),
    "doctor": ("doctor", "print versions, what is patched, and what is wrong with advice"),
}
USAGE_ERROR = 2
DEBUG = "FAIRSEQ_TICKETS_DEBUG"


class Parser(argparse.ArgumentParser):
    """As argparse's, whose errors quote a value whatever its length."""

    def error(self, message: str) -> NoReturn:
        """Usage and one line on standard error, exit code 2."""
        super().error(one_line(message))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns the exit code. A UserError becomes one line on standard error and exit code 2.

    What the system refuses (no permission, a name too long, no memory) is told in one line as well, with its own
    reason; where the environment variable FAIRSEQ_TICKETS_DEBUG is set, such errors keep their traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    return _guarded(lambda: _run(arguments))


def script(about: str | None, command: str, name: str | None = None) -> int:
    """What a program of scripts/ runs: one sub-command under the program's own help; returns the exit code.

    Args:
        about: the program's docstring, shown by --help.
        command: key of COMMANDS.
        name: the table or figure, where the command makes several: it is not an argument of the program.
    """

    def run() -> int:
        module = importlib.import_module(f"fairseq_tickets.cli.{COMMANDS[command][0]}")
        parser = Parser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name is None:
            module.add_arguments(parser)
        else:
            module.add_arguments(parser, name)
        args = parser.parse_args()
        with stoppable():
            return int(module.run(args))

    return _guarded(run)


def _guarded(run: Callable[[], int]) -> int:
    """Exit code of `run`, with one line for what the user or the system is to blame for."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that is no UTF-8, or a terminal that knows ASCII only
            stream.reconfigure(errors="backslashreplace")
    try:
        return run()
    except UserError as error:
        return _refuse(str(error))
    except KeyboardInterrupt as stop:
        print(f"fairseq-tickets: stopped by {signal.Signals(stop_signal(stop)).name}", file=sys.stderr)
        return 128 + stop_signal(stop)
    except BrokenPipeError:
        return 1
    except OSError as error:
        if os.environ.get(DEBUG):
            raise
        about = f" {error.filename}" if error.filename else ""
        return _refuse(f"the system refused{about}: {error.strerror or error}")
    except MemoryError:
        if os.environ.get(DEBUG):
            raise
        return _refuse("not enough memory for this input on this machine")


def _run(arguments: list[str]) -> int:
    if any("\0" in word for word in arguments):
        raise UserError("an argument holds a NUL character; no file and no option can")
    parser = Parser(
        prog="fairseq-tickets",
        description="Find, train and explain the lottery tickets of pre-trained language models.",
        epilog="fairseq-tickets COMMAND --help explains a command.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    if chosen is not None and chosen not in COMMANDS:
        near = difflib.get_close_matches(chosen, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
        raise UserError(f"no command {shown(chosen)}; {hint}")
    module = None
    for name, (module_name, summary) in COMMANDS.items():
        if name == chosen:
            module = importlib.import_module(f"fairseq_tickets.cli.{module_name}")
            sub = commands.add_parser(
                name,
                help=summary,
                description=module.DESCRIPTION,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            module.add_arguments(sub)
        else:
            commands.add_parser(name, help=summary)
    args = parser.parse_args(arguments)
    if args.version:
        from fairseq_tickets import __version__

        print(f"fairseq-tickets {__version__}")
        return 0
    if module is None:
        parser.print_help()
        return USAGE_ERROR
    with stoppable():
        return int(module.run(args))


def _refuse(line: str) -> int:
    print(f"fairseq-tickets: error: {one_line(line)}", file=sys.stderr)
    return USAGE_ERROR
