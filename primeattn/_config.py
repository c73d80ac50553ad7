"""Frozen configuration objects: how they print, and checks of their fields."""

from __future__ import annotations

import math
from dataclasses import MISSING, fields, is_dataclass
from numbers import Integral

import numpy as np


class Config:
    """A frozen dataclass that prints as the call that makes it, without default values."""

    def default(self, field):
        """Return the value of a field that is not shown.

        Parameters
        ----------
        field : dataclasses.Field
            One of the class.

        Returns
        -------
        object
            By default that of the dataclass.
        """
        return field.default

    def __repr__(self):
        arguments = []
        for field in fields(self) if is_dataclass(self) else ():  # a user may have forgotten to make it one
            value = getattr(self, field.name)
            shown = value.__name__ if hasattr(value, "__name__") else repr(value)
            if field.init and field.default is MISSING:
                arguments.append(shown)
            elif field.init and value != self.default(field):
                arguments.append(f"{field.name}={shown}")
        return f"{type(self).__name__}({', '.join(arguments)})"


def freeze_size(config, name, minimum=1):
    """Store field ``name`` as a Python int; raise unless it is an integer of at least ``minimum``."""
    value = getattr(config, name)
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{type(config).__name__}: {name} must be an integer, got {value!r}")
    if value < minimum:
        raise ValueError(f"{type(config).__name__}: {name} must be at least {minimum}, got {value}")
    object.__setattr__(config, name, int(value))


def freeze_flag(config, name):
    """Store field ``name`` as a bool; raise unless it is True or False."""
    value = getattr(config, name)
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{type(config).__name__}: {name} must be True or False, got {value!r}")
    object.__setattr__(config, name, bool(value))


def freeze_real(config, name, low, high=math.inf):
    """Store field ``name`` as a float; raise unless it is a number in [low, high)."""
    value = getattr(config, name)
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (Integral, float, np.floating)):
        raise TypeError(f"{type(config).__name__}: {name} must be a number, got {value!r}")
    if not low <= value < high:
        raise ValueError(f"{type(config).__name__}: {name} must be in [{low}, {high}), got {value}")
    object.__setattr__(config, name, float(value))


def check_callable(config, name):
    """Raise unless field ``name`` is callable."""
    value = getattr(config, name)
    if not callable(value):
        raise TypeError(f"{type(config).__name__}: {name} must be callable, got {value!r}")
