"""Every test runs offline, with a home of its own: nothing is read from or left on the machine of whoever runs it.

The environment is set on import, before any test module can import a library that reads it; child processes inherit it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent
HOME = Path(tempfile.mkdtemp(prefix="home-"))

HERMETIC = {
    "HOME": str(HOME),
    "USERPROFILE": str(HOME),
    "XDG_CACHE_HOME": str(HOME / ".cache"),
    "XDG_CONFIG_HOME": str(HOME / ".config"),
    "XDG_DATA_HOME": str(HOME / ".local" / "share"),
    "XDG_STATE_HOME": str(HOME / ".local" / "state"),
    # Hubs and trackers: what is not on disk is not there.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "AWS_EC2_METADATA_DISABLED": "true",
    # Python sockets are guarded by sitecustomize; programs in other languages meet a closed proxy.
    "PYTHONPATH": os.pathsep.join([str(TESTS / "offline"), str(TESTS.parent)]),
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost,::1",
    # Wide enough that terminal output is not wrapped, and without colours.
    "COLUMNS": "160",
    "NO_COLOR": "1",
}
SECRETS = ("WANDB_", "AWS_", "HF_", "HUGGING_FACE_", "RUNPOD_", "RAY_ADDRESS", "RAY_AUTH_", "PYTEST_ADDOPTS")

for name in [n for n in os.environ if n.upper().startswith(SECRETS) or n.lower().endswith("_proxy")]:
    del os.environ[name]
os.environ.update(HERMETIC)
# Tests run side by side, one process per core; what several threads change is tested where it is asked for.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure() -> None:
    """Guard this process too: it started before the environment was set."""
    import tests.offline.sitecustomize  # noqa: F401


def pytest_unconfigure() -> None:
    """Leave nothing behind."""
    shutil.rmtree(HOME, ignore_errors=True)
