"""What holds for every test: no model hub, no proxy on loopback, a cache and data apart from the user's."""

import os
import tempfile
from pathlib import Path

LOOPBACK = "localhost,127.0.0.1,::1"

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["NO_PROXY"] = os.environ["no_proxy"] = LOOPBACK
os.environ.setdefault("EXPERTMESH_CACHE", str(Path(tempfile.gettempdir()) / f"expertmesh-tests-{os.getuid()}"))
os.environ.setdefault("EXPERTMESH_DATA", os.environ["EXPERTMESH_CACHE"])
