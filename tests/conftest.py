"""What holds for every test: no model hub, no proxy on loopback, a cache and data apart from the user's.

Ctrl-C is heeded even where the tests run in the background, whose shell lets every process ignore it.
"""

import os
import signal
import tempfile
from pathlib import Path

LOOPBACK = "localhost,127.0.0.1,::1"

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["NO_PROXY"] = os.environ["no_proxy"] = LOOPBACK
os.environ.setdefault("EXPERTMESH_CACHE", str(Path(tempfile.gettempdir()) / f"expertmesh-tests-{os.getuid()}"))
os.environ.setdefault("EXPERTMESH_DATA", os.environ["EXPERTMESH_CACHE"])
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
