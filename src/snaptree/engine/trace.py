"""Named points in the operations at which a test can stop or kill the process.  Not for: logging.

Armed only by the environment variable ``SNAPTREE_TRACE``, which holds ``POINT=ACTION`` pairs, comma-separated:
``kill`` ends this process by SIGKILL at that point, ``stop`` stops it by SIGSTOP.  Else a point costs one look-up.
"""

from __future__ import annotations

import os
import signal

_ARMED = dict(pair.partition("=")[::2] for pair in os.environ.get("SNAPTREE_TRACE", "").split(",") if pair)
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def point(name: str) -> None:
    """Pass the point ``name``."""
    if name in _ARMED:
        os.kill(os.getpid(), _SIGNALS[_ARMED[name]])
