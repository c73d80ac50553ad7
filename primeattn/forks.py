"""State that is not valid in a forked child: locks and threads of its parent.

Only the thread that forks goes on in the child. Locks that other threads held are never released there, and
helper threads are gone. The package keeps such state in a ``PerProcess``, or repairs it by a function that is
registered here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PerProcess", "around", "in_child"]

_process = object()  # a different one in each process


def in_child(answer: Callable[[], Any]) -> Any:
    """Decorator: call ``answer()`` in every forked child, before anything else runs there.

    Parameters
    ----------
    answer : callable
        Called without arguments.

    Returns
    -------
    callable
        The same function.

    See Also
    --------
    PerProcess : A value that each process makes anew.

    Examples
    --------
    >>> from primeattn import forks
    >>> @forks.in_child
    ... def forget():
    ...     pass
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=answer)
    return answer


def around(before: Callable[[], Any], after: Callable[[], Any]) -> None:
    """Call ``before()`` in the parent before every fork, and ``after()`` there after it.

    Parameters
    ----------
    before, after : callable
        Called without arguments.

    See Also
    --------
    in_child : What the child does.

    Examples
    --------
    >>> from primeattn import forks
    >>> forks.around(before=lambda: None, after=lambda: None)
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_parent=after)


@in_child
def _begin_anew():
    global _process
    _process = object()


class PerProcess:
    """``PerProcess(make)()`` returns what ``make()`` gave at the first call in this process.

    Parameters
    ----------
    make : callable
        Called without arguments, once in each process.

    See Also
    --------
    in_child : Calls a function in every child.

    Examples
    --------
    >>> from primeattn.forks import PerProcess
    >>> numbers = PerProcess(list)
    >>> numbers() is numbers()
    True
    """

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._made = make, {}

    def __call__(self) -> Any:
        made = self._made.get(_process)
        # One step for Python: concurrent threads get the same object, and no exception comes between.
        return self._made.setdefault(_process, self._make()) if made is None else made
