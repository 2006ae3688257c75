"""Where the server runs: a pure judgement of the operating system and the processor, by name."""

from router.config import Config
from router.errors import PlatformRefused

_LINUX_PROCESSORS = {"x86_64", "aarch64", "arm64"}
_SUPPORTED = "Expertmesh runs on Linux (x86-64 and arm64), and standalone on macOS (arm64)"


def require_platform(config: Config, system: str, processor: str) -> None:
    """Raise PlatformRefused unless the config's form runs on `system` and `processor`, in `platform`'s words."""
    if system == "Linux" and processor in _LINUX_PROCESSORS:
        return
    if system == "Darwin" and processor == "arm64":
        if config.form == "standalone":
            return
        raise PlatformRefused("macOS runs the standalone form only: `expertmesh serve tiny-standalone`")
    raise PlatformRefused(f"{system} on {processor} is not supported: {_SUPPORTED}")


def default_preset(system: str) -> str:
    """Return the preset that `expertmesh serve` means without an argument."""
    return "tiny-standalone" if system == "Darwin" else "tiny"
