"""The arguments that say where else a VM is served, and how strictly.  Not for: serving it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..model.errors import UsageError
from .command import Parser

if TYPE_CHECKING:
    from ..server.exchange import Options

_TLS = ("tls_cert", "tls_key", "tls_client_ca")


def add_serving(parser: Parser) -> None:
    """Add --listen, the TLS files and --allow-raw."""
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        action="append",
        default=[],
        help="serve QMP at unix:PATH or tcp:ADDRESS:PORT too; may be given several times",
    )
    for name, what in (
        ("--tls-cert", "our certificate"),
        ("--tls-key", "its key"),
        ("--tls-client-ca", "the authority whose clients may come in"),
    ):
        parser.add_argument(name, metavar="FILE", type=Path, help=f"for --listen tcp: {what}, PEM")
    parser.add_argument(
        "--allow-raw",
        action="store_true",
        help="let QEMU's own snapshot commands pass, which go around the lineage",
    )


def options(args: argparse.Namespace) -> Options:
    """Return what the arguments ask of the supervisor.

    :raises UsageError: where an address is none, or only some of the TLS files are given.
    """
    from ..server.exchange import Options  # noqa: PLC0415  asyncio
    from ..server.listeners import TLSFiles, parse  # noqa: PLC0415

    files = [getattr(args, name) for name in _TLS]
    if any(files) and not all(files):
        raise UsageError("TLS wants three files.", "Give --tls-cert, --tls-key and --tls-client-ca.")
    tls = TLSFiles(*(file.absolute() for file in files)) if all(files) else None
    return Options(tuple(parse(text) for text in args.listen), tls, args.allow_raw)
