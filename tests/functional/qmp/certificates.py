"""Certificates for a test, made by the openssl command.  Not for: anything that lasts."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, PEM."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Authority:
    """Somebody who signs certificates."""

    folder: Path
    pair: Pair

    @classmethod
    def make(cls, folder: Path, name: str) -> Authority:
        """Make one with a certificate of its own."""
        pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
        _openssl("req", "-x509", *_KEY, "-subj", f"/CN={name}", "-days", "2", "-keyout", pair.key, "-out", pair.cert)
        return cls(folder, pair)

    def sign(self, name: str) -> Pair:
        """Make a certificate for ``name`` at 127.0.0.1."""
        pair = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        ca = ("-CA", self.pair.cert, "-CAkey", self.pair.key)
        names = ("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE")
        _openssl(
            "req",
            "-x509",
            *ca,
            *_KEY,
            *names,
            "-subj",
            f"/CN={name}",
            "-days",
            "2",
            "-keyout",
            pair.key,
            "-out",
            pair.cert,
        )
        return pair

    def context(self, pair: Pair | None) -> ssl.SSLContext:
        """Return a client's context that trusts this authority, and shows ``pair``."""
        context = ssl.create_default_context(cafile=str(self.pair.cert))
        if pair is not None:
            context.load_cert_chain(pair.cert, pair.key)
        return context


def _openssl(*words: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
