"""The command `mynosql`: its arguments, and what an error or an interruption means for the exit code.

Owns the parser and the last line of defence: an error is one line on stderr, never a
traceback (unless --verbose asks for it). What a verb does is in commands.py, serve.py and demo.py, imported when used.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from mynosql.cli import exits
from mynosql.errors import MyNoSQLError

JSON_NOTE = """\
JSON: values that JSON does not have are objects with one key:
  {"$bytes": base64} {"$bytearray": base64} {"$tuple": [...]} {"$set": [...]} {"$frozenset": [...]}
  {"$decimal": "1.50"} {"$fraction": "1/3"} {"$complex": [re, im]} {"$uuid": ...} {"$date": ...} {"$time": ...}
  {"$datetime": ...} {"$timedelta": [days, seconds, microseconds]} {"$float": "nan" | "inf" | "-inf"} {"$int": "0x..."}
  {"$packed": base64}
  {"$dict": [[key, value], ...]} for a dict whose keys are not all strings, or that looks like one of these.
put reads the same. An ID is a string; with --id-json it is JSON: 17, true, {"$tuple": ["a", 1]}.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. arguments: without the program's name, default those of the process."""
    try:
        args = parse(arguments)
    except SystemExit as usage:  # argparse has printed what is wrong, or the help
        return usage.code if isinstance(usage.code, int) else exits.USAGE
    kept = signal.signal(signal.SIGTERM, _terminate)
    try:
        code = _find_command(args.command)(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _drop_output()
        return exits.OUTPUT_CLOSED
    except KeyboardInterrupt:
        _complain("interrupted")
        return exits.INTERRUPTED
    except exits.Terminated:
        return exits.TERMINATED
    except MyNoSQLError as error:
        _show_traceback(args)
        _complain(str(error))
        return exits.code_of(error)
    except OSError as error:
        _show_traceback(args)
        if error.filename is None:
            _drop_output()
        _complain(f"{error.filename or 'the output'}: {error.strerror or error}")
        return exits.STORAGE
    except Exception as error:
        _show_traceback(args)
        _complain(f"a mistake in mynosql itself: {type(error).__name__}: {error} (--verbose shows where)")
        return exits.INTERNAL
    finally:
        signal.signal(signal.SIGTERM, kept)


def _find_command(name: str) -> Callable[[argparse.Namespace], int]:
    if name == "demo":
        from mynosql.cli.demo import run

        return lambda _: run(sys.stdout)
    if name == "serve":
        from mynosql.cli.serve import serve

        return serve
    if name in ("conflicts", "resolve", "rejected"):
        from mynosql.cli import conflicts

        return conflicts.COMMANDS[name]
    if name in ("dump", "repair"):
        from mynosql.cli import dumping

        return dumping.COMMANDS[name]
    if name in ("check", "compact", "backup", "export", "import"):
        from mynosql.cli import keeping

        return keeping.COMMANDS[name]
    from mynosql.cli.commands import COMMANDS

    return COMMANDS[name]


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise exits.Terminated


def _complain(text: str) -> None:
    line = " ".join(text.split("\n"))
    print(f"mynosql: {line}", file=sys.stderr)


def _show_traceback(args: argparse.Namespace) -> None:
    if args.verbose:
        traceback.print_exc()


def _drop_output() -> None:
    """What is still in the buffer of stdout goes nowhere, instead of failing again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# The arguments


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The parsed arguments; prints usage and raises SystemExit when they are wrong.

    The words of put may stand between options, which argparse does not offer for words that may be missing.
    """
    parser = build_parser()
    args, rest = parser.parse_known_args(arguments)
    words: list[str] = [*getattr(args, "words", []), *rest]
    is_option = any(word.startswith("-") and word != "-" and not word[1:2].isdigit() for word in rest)
    if rest and (args.command != "put" or is_option):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if len(words) > 2:
        parser.error(f"put takes an ID and a record, found also: {' '.join(words[2:])}")
    return args if not rest else argparse.Namespace(**{**vars(args), "words": words})


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="mynosql", description="An embedded document database that replicates itself.",
        epilog=f"{exits.TEXT}\n{JSON_NOTE}\nmynosql COMMAND --help tells more. "
        "A database that a process has open is reached through that process.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    parser.set_defaults(verbose=False)
    add = parser.add_subparsers(dest="command", metavar="COMMAND", required=True).add_parser
    _add_demo(add)
    _add_serve(add)
    _add_put(add)
    _add_get(add)
    _add_ls(add)
    _add_status(add)
    _add_watch(add)
    _add_conflicts(add)
    _add_resolve(add)
    _add_rejected(add)
    _add_keeping(add)
    _add_keygen(add)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        import mynosql

        print(f"mynosql {mynosql.__version__}")
        parser.exit()


_Add = Callable[..., argparse.ArgumentParser]


def _add_demo(add: _Add) -> None:
    demo = add(
        "demo", help="three nodes, a cut link, a killed mirror: watch nothing get lost (about 10 s)",
        description="Runs a mirror and two peers as processes on this machine, cuts a link, kills the mirror, and "
        "compares every record at the end. Exit code 1 if anything is missing. Works in a temporary folder.",
    )
    demo.add_argument("--verbose", action="store_true", help="show a traceback when it fails")


def _add_serve(add: _Add) -> None:
    serve = _database_command(add, "serve", "run a mirror in the foreground until Ctrl-C or SIGTERM")
    serve.add_argument("--listen", metavar="HOST:PORT", help="where other nodes reach it; port 0 picks one "
                       "(default: as before, else 8800 or the next free one)")
    serve.add_argument("--advertise", metavar="URL", help="the address that other nodes are told (NAT, containers)")


def _add_put(add: _Add) -> None:
    put = _database_command(add, "put", "save a record; prints its id and new rev")
    put.usage = "mynosql put [options] NAME [ID] [JSON]"
    put.add_argument("words", nargs="*", metavar="ID, JSON", help='the id (default: the "id" in the record, else a new '
                     "one) and the record (default: read from stdin, one JSON object, or one on each line)")
    put.add_argument("--id-json", action="store_true", help="ID is JSON, not a plain string")
    put.add_argument("--wait", type=seconds, metavar="S", help="wait until a mirror has it on its disk; exit code 1 "
                     "if not within S seconds (default: 2 s for a database that no process has open, without code 1)")


def _add_get(add: _Add) -> None:
    get = _database_command(add, "get", "print a record as JSON")
    get.add_argument("id", metavar="ID")
    get.add_argument("--id-json", action="store_true", help="ID is JSON, not a plain string")
    get.add_argument("--timeout", type=seconds, default=5.0, metavar="S",
                     help="seconds to wait for a mirror when it is not held here (default 5)")


def _add_ls(add: _Add) -> None:
    ls = _database_command(add, "ls", "list the ids of all records, held here or not, in order")
    ls.add_argument("--prefix", default="", help="only string ids that begin so")
    ls.add_argument("--after", metavar="ID", help="only ids behind this one (JSON with --id-json)")
    ls.add_argument("--limit", type=count, metavar="N", help="at most N ids")
    ls.add_argument("--id-json", action="store_true", help="--after is JSON, not a plain string")


def _add_status(add: _Add) -> None:
    _database_command(add, "status", "the state of this node: mode, records, queue, mirrors, last error")


def _add_watch(add: _Add) -> None:
    watch = _database_command(add, "watch", "print changes as they happen, until Ctrl-C")
    watch.add_argument("--since", metavar="TOKEN", help="go on after this point (a token of --json output)")
    watch.add_argument("--all", action="store_true", help="begin with everything that is there")
    watch.add_argument("--prefix", default="", help="only string ids that begin so")
    watch.add_argument("--count", type=count, metavar="N", help="end after N changes")


def _add_conflicts(add: _Add) -> None:
    conflicts = _database_command(add, "conflicts", "list the ids of records with concurrent revisions, or the "
                                  "revisions of one, the winner first")
    conflicts.add_argument("id", nargs="?", metavar="ID")
    conflicts.add_argument("--id-json", action="store_true", help="ID is JSON, not a plain string")
    conflicts.add_argument("--prefix", default="", help="only string ids that begin so")
    conflicts.add_argument("--timeout", type=seconds, default=5.0, metavar="S",
                           help="seconds to wait for a mirror for revisions that are not held here (default 5)")


def _add_resolve(add: _Add) -> None:
    resolve = _database_command(add, "resolve", "end a conflict: the record is this from now on; prints its id and rev")
    resolve.add_argument("id", metavar="ID")
    resolve.add_argument("record", nargs="?", metavar="JSON", help="the record (default: read from stdin)")
    resolve.add_argument("--take", metavar="REV", help="instead of JSON: one of the revisions that conflicts shows")
    resolve.add_argument("--id-json", action="store_true", help="ID is JSON, not a plain string")
    resolve.add_argument("--timeout", type=seconds, default=5.0, metavar="S",
                         help="seconds to wait for a mirror for a revision that is not held here (default 5)")
    resolve.add_argument("--wait", type=seconds, metavar="S", help="as for put")


def _add_rejected(add: _Add) -> None:
    rejected = _database_command(add, "rejected", "list what a mirror refused of this node's changes, and why")
    rejected.add_argument("--retry", action="store_true", help="send them once more")
    rejected.add_argument("--wait", type=seconds, metavar="S", help="with --retry: as for put")


def _add_keeping(add: _Add) -> None:
    _database_command(add, "check", "read and compare every byte of the folder; exit code 1 if problems are found")
    repair = _folder_command(add, "repair", "save all that is readable of a damaged database into FOLDER/NAME and list "
                             "what is lost; exit code 1 if anything is")
    repair.add_argument("folder", metavar="FOLDER", help="made if missing; the damaged folder is only read")
    dump = _folder_command(add, "dump", "print a line for each block and frame in the files; exit code 1 if one is "
                           "damaged")
    dump.add_argument("file", metavar="FILE", nargs="?", help="only of this one, such as shard-00000000")
    _database_command(add, "compact", "give back the disk space of replaced revisions, now")
    backup = _database_command(add, "backup", "copy the database as it is now to FOLDER/NAME, beside whoever uses it")
    backup.add_argument("folder", metavar="FOLDER", help="made if missing; --location FOLDER opens the copy")
    export = _database_command(add, "export", "write all records to a file, in id order")
    export.add_argument("file", metavar="FILE", help="ends in .jsonl (every type is kept) or .csv; replaced")
    load = _database_command(add, "import", "save all records of a file that export wrote, over what their ids had")
    load.add_argument("file", metavar="FILE", help="a name that ends in .jsonl or .csv")


def _add_keygen(add: _Add) -> None:
    keygen = add("keygen", help="make a cluster secret, which nodes on other hosts need")
    keygen.add_argument("--out", metavar="FILE", help="write it to a new file with mode 0600 instead of printing it")
    keygen.add_argument("--verbose", action="store_true", help="show a traceback when it fails")


def _database_command(add: _Add, name: str, text: str) -> argparse.ArgumentParser:
    """A command that opens the database, or reaches it through the process that has it open."""
    command = _folder_command(add, name, text)
    command.add_argument("--peer", action="append", default=[], metavar="URL", help="another node, such as "
                         "http://host:8800; remembered; may be repeated")
    command.add_argument("--secret-file", metavar="FILE", help="the cluster secret, a file of mode 0600 "
                         "(default: $MYNOSQL_SECRET)")
    command.add_argument("--insecure", action="store_true", help="allow other hosts without a secret: whoever reaches "
                         "the port reads and writes")
    return command


def _folder_command(add: _Add, name: str, text: str) -> argparse.ArgumentParser:
    command = add(
        name, help=text, description=text[0].upper() + text[1:] + ".", epilog=exits.TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("name", metavar="NAME", help="the database's name")
    command.add_argument("--location", metavar="FOLDER", help="where databases live (default: $MYNOSQL_HOME, else "
                         "the system's folder for a user's data)")
    command.add_argument("--json", action="store_true", help="output for programs: JSON, one value on a line")
    command.add_argument("--verbose", action="store_true", help="say on stderr what is done, and where it fails")
    return command


def seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0 to 86400")
    return value


def count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


if __name__ == "__main__":
    sys.exit(main())
