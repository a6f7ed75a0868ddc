"""The command line: ``feedwater run``, ``sidecar``, ``status``, ``sweep``, ``install-client`` …."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

import feedwater
from feedwater.values import Mode

NO_SERVICE = "feedwater sidecar: not installed here; install it with: pip install 'feedwater[service]'"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that ``arguments`` (None: those of the process) name; return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["sidecar"]:
        # It has its own flags, help and exit codes.
        return _sidecar(given[1:])
    if given[:1] == ["sweep"]:
        return _sweep(given[1:])
    if given[:1] == ["install-client"]:
        return _install_client(given[1:])
    parsed = _parser().parse_args(given)
    if parsed.command == "run":
        return _run(parsed)
    if parsed.command == "status":
        from feedwater.status import command as status

        return status.main(parsed)
    print(f"feedwater {feedwater.__version__}")
    return 0


def _parser() -> argparse.ArgumentParser:
    from feedwater.status import command as status

    parser = argparse.ArgumentParser(prog="feedwater", description="Measure DataLoaders, set their workers.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="run a training with every DataLoader watched"))
    commands.add_parser("sidecar", help="run the sidecar (see feedwater sidecar --help)")
    status.add_options(commands.add_parser("status", help="show what the sidecar knows"))
    commands.add_parser("sweep", help="measure a DataLoader at many settings (see feedwater sweep --help)")
    commands.add_parser("install-client", help="lay the client into a volume for training images")
    commands.add_parser("version", help="show the version")
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "feedwater run [--mode MODE] [--address ADDRESS] [--] (SCRIPT.py | -m MODULE | PROGRAM) [ARG ...]"
    )
    parser.add_argument(
        "--mode",
        choices=[mode.value for mode in Mode],
        help="what Feedwater may do to loaders that the script does not mention (default: advise)",
    )
    parser.add_argument(
        "--address",
        help="where the sidecar is, unix:/path or host:port (default: FEEDWATER_ADDRESS, "
        "or a sidecar of its own where none answers)",
    )
    parser.add_argument("-m", dest="module", action="store_true", help="what follows is a Python module")
    parser.add_argument(
        "program", nargs=argparse.REMAINDER, help="script, module or program, and its arguments"
    )


def _run(parsed: argparse.Namespace) -> int:
    from feedwater.run import Run

    program = list(parsed.program)
    if program[:1] == ["--"]:
        program = program[1:]
    if program[:1] == ["-m"]:
        program, parsed.module = program[1:], True
    if not program:
        _parser().error("run: expected a script, a module or a program to run")
    return Run(program, is_module=parsed.module, mode=parsed.mode, address=parsed.address).main()


def _sidecar(arguments: Sequence[str]) -> int:
    try:
        cli = importlib.import_module("feedwater_service.cli")
    except ImportError as error:
        print(f"{NO_SERVICE} ({error})", file=sys.stderr)
        return 1
    return int(cli.main(list(arguments)) or 0)


def _install_client(arguments: Sequence[str]) -> int:
    # A pod's start waits for this command, so it imports nothing of the others'.
    from feedwater.inject import install

    parser = argparse.ArgumentParser(
        prog="feedwater install-client",
        description="Lay the client into a volume, for a training image that has no Feedwater.",
    )
    parser.add_argument("directory", metavar="DIRECTORY", help="where; its site/ is for PYTHONPATH")
    return install.main(parser.parse_args(list(arguments)).directory)


def _sweep(arguments: Sequence[str]) -> int:
    from feedwater.sweep import command

    parser = argparse.ArgumentParser(prog="feedwater sweep")
    command.add_options(parser)
    return command.main(parser.parse_args(list(arguments)))
