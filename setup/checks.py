"""What a machine must be and have before anything is downloaded: a pure judgement of a `Machine` value.

`machine.probe` fills the value in; nothing here looks at the real machine.
"""

from dataclasses import dataclass

GIB = 1024**3
OLDEST_PYTHON = (3, 11)
NEWEST_PYTHON = (3, 14)
OLDEST_GLIBC = (2, 28)
CPU_INSTALL_BYTES = 3 * GIB
CUDA_INSTALL_BYTES = 12 * GIB
MIN_MEMORY_BYTES = int(3.6 * GIB)  # what a machine sold as 4 GB shows


@dataclass(frozen=True, slots=True)
class Machine:
    """What set-up knows about the machine it runs on."""

    system: str
    architecture: str
    is_64bit: bool
    libc: str
    libc_version: tuple[int, ...]
    python_version: tuple[int, int]
    has_venv: bool
    has_gpu: bool
    has_compiler: bool
    free_bytes: int
    memory_bytes: int | None
    package_manager: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong with a machine: `refusals` stop set-up, `warnings` are only said."""

    refusals: tuple[str, ...]
    warnings: tuple[str, ...]


def judge(machine: Machine, *, with_cuda: bool, is_installed: bool) -> Verdict:
    """Return what keeps this machine from installing the CPU or the CUDA set, in words for its owner.

    `is_installed` leaves out what only an installation needs.
    """
    refusals = [platform_refusal(machine), python_refusal(machine)]
    if not is_installed:
        refusals += [venv_refusal(machine), space_refusal(machine, with_cuda=with_cuda)]
    return Verdict(
        refusals=tuple(text for text in refusals if text),
        warnings=tuple(text for text in [memory_warning(machine), compiler_warning(machine)] if text),
    )


def platform_refusal(machine: Machine) -> str | None:
    """Return why this operating system or processor is refused, by its name."""
    name = f"{machine.system} on {machine.architecture}"
    supported = "Expertmesh runs on Linux x86-64 and arm64 (glibc), and standalone on macOS arm64"
    if not machine.is_64bit:
        return f"{name} with a 32-bit Python is not supported. {supported}."
    if machine.system == "Darwin":
        if machine.architecture == "arm64":
            return None
        return f"macOS on {machine.architecture} is not supported: PyTorch builds no wheels for it. {supported}."
    if machine.system == "Windows":
        return f"Windows is not supported. {supported}; inside WSL 2, Windows counts as Linux."
    if machine.system != "Linux" or machine.architecture not in {"x86_64", "aarch64", "arm64"}:
        return f"{name} is not supported. {supported}."
    if machine.libc != "glibc":
        return f"Linux with {machine.libc or 'a C library other than glibc'} is not supported. {supported}."
    if machine.libc_version < OLDEST_GLIBC:
        found = ".".join(map(str, machine.libc_version))
        return f"glibc {found} is too old: PyTorch's wheels need 2.28 (Debian 10, Ubuntu 18.10, RHEL 8) or newer."
    return None


def python_refusal(machine: Machine) -> str | None:
    """Return why this Python's version is refused."""
    found = ".".join(map(str, machine.python_version))
    if machine.python_version < OLDEST_PYTHON:
        return f"Python {found} is too old: Expertmesh needs 3.11 to 3.14."
    if machine.python_version > NEWEST_PYTHON:
        return f"Python {found} is too new: wheels of every pinned dependency exist for 3.11 to 3.14."
    return None


def venv_refusal(machine: Machine) -> str | None:
    """Return what to install when Python comes without its venv module, as on Debian."""
    if machine.has_venv:
        return None
    version = ".".join(map(str, machine.python_version))
    commands = {
        "apt": f"sudo apt-get install python{version}-venv",
        "dnf": f"sudo dnf install python{version}",
        "zypper": f"sudo zypper install python{version.replace('.', '')}",
    }
    command = commands.get(machine.package_manager or "", f"install the venv and ensurepip modules of Python {version}")
    return (
        f"This Python {version} cannot make virtual environments (venv or ensurepip is missing). To mend it:  {command}"
    )


def space_refusal(machine: Machine, *, with_cuda: bool) -> str | None:
    """Return how much space is missing for the environment."""
    needed_bytes = CUDA_INSTALL_BYTES if with_cuda else CPU_INSTALL_BYTES
    if machine.free_bytes >= needed_bytes:
        return None
    return (
        f"The environment needs {needed_bytes / GIB:.0f} GiB beside this checkout, "
        f"and {machine.free_bytes / GIB:.1f} GiB are free."
    )


def memory_warning(machine: Machine) -> str | None:
    """Return a warning for a machine with less memory than the tiny cluster was tried with."""
    if machine.memory_bytes is None or machine.memory_bytes >= MIN_MEMORY_BYTES:
        return None
    return (
        f"{machine.memory_bytes / GIB:.1f} GiB of memory is less than the 4 GB that the tiny cluster was tried with; "
        "`expertmesh serve tiny-standalone` needs the least."
    )


def compiler_warning(machine: Machine) -> str | None:
    """Return what to install so that the CPU kernels can be compiled; without them PyTorch computes, slower."""
    if machine.has_compiler or machine.has_gpu:
        return None
    commands = {
        "apt": "sudo apt-get install g++",
        "dnf": "sudo dnf install gcc-c++",
        "zypper": "sudo zypper install gcc-c++",
    }
    command = commands.get(machine.package_manager or "", "install g++ or clang++")
    return f"No C++ compiler is here, so PyTorch computes in place of the faster CPU kernels. To have them:  {command}"
