"""Packages that only a bridge needs."""

from __future__ import annotations

from importlib import import_module


def require(package):
    """Import ``package`` for the bridge of that name; ModuleNotFoundError says what to install."""
    try:
        import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ModuleNotFoundError(
            f"primeattn.{package} needs the package {package}, which is not installed "
            f"(pip install 'primeattn[{package}]')",
            name=package,
        ) from None
