"""The command ``snaptree``: from the words of the command line to an exit code.  Not for: any one command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from ..model.errors import Interrupted, SnaptreeError, UsageError
from . import output
from .commands import find, whole_parser


def entry() -> NoReturn:
    """Run the command line of this process, and exit."""
    try:
        code = main(sys.argv[1:])
    finally:
        output.finish()
    sys.exit(code)


def main(words: Sequence[str]) -> int:
    """Run a command line, without the program's name; return its exit code."""
    try:
        return _run(words)
    except SnaptreeError as error:
        failed = error
    except KeyboardInterrupt:
        failed = Interrupted("Interrupted.", "What the VM's supervisor has begun, it finishes or undoes.")
    except SystemExit as exit:
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        failed = SnaptreeError(
            f"{named}{error.strerror or error}.", "See what is there, and who may use it." * bool(named)
        )
    except Exception as error:  # with --json a program still needs its document
        import traceback  # noqa: PLC0415

        traceback.print_exc()
        failed = SnaptreeError(
            f"snaptree failed where it should not: {type(error).__name__}: {error}.",
            "Please report it, with the lines above.",
        )
    output.failure(failed, as_json=_wants_json(words))
    return failed.exit_code


def _run(words: Sequence[str]) -> int:
    if not words:
        raise UsageError("No command is given.", "`snaptree --help` lists all.")
    first, *rest = words
    if first in ("-h", "--help"):
        whole_parser(arguments=False).print_help()
        return 0
    if first in ("-V", "--version"):
        from .. import __version__  # noqa: PLC0415  takes 20 ms

        output.say(f"snaptree {__version__}")
        return 0
    command = find(first)
    passed_on: list[str] | None = None
    if command.passes_on and "--" in rest:
        split = rest.index("--")
        rest, passed_on = rest[:split], rest[split + 1 :]
    # Intermixed, because else an option between VM and NAME would make NAME unknown (argparse before 3.13).
    try:
        args = command.parser().parse_intermixed_args(rest)
    except UsageError as error:
        if command.passes_on and passed_on is None and error.message.startswith("Unrecognized arguments"):
            error.remedy = f"The command that it shall run stands after a double hyphen. {error.remedy}"
        raise
    args.words = passed_on
    return command.act(args)


def _wants_json(words: Sequence[str]) -> bool:
    ours = words[: words.index("--")] if "--" in words else words
    return "--json" in ours
