"""Where a number came from: the versions that produced it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from sandbox.lab.cell import ALGORITHM_VERSION

PACKAGES = ("dmd-sandbox", "torch", "numpy", "scipy", "POT", "matplotlib", "seaborn")


def trained_on(device: str) -> dict[str, str]:
    """What a record says of its training: the version of torch, and the processor."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    return {"torch": torch.__version__, "device": name}


def versions() -> dict[str, str]:
    """Versions of the interpreter and of the packages that numbers and figures depend on."""
    found = {"python": platform.python_version(), "algorithm": str(ALGORITHM_VERSION)}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
