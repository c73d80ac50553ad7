"""What holds no longer in a forked child: locks and threads of its parent.

Of a process with threads only the thread that forks goes on in the child. Locks that others held are never
released there, and threads that others waited for are gone. Whatever the package keeps of that kind is kept
here or is mended by a function registered here.
"""

from __future__ import annotations

import os

__all__ = ["PerProcess", "around", "in_child"]

_process = object()  # another one in each process


def in_child(answer):
    """Decorator: call ``answer()`` in every forked child, before anything else runs there.

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


def around(before, after):
    """Call ``before()`` in the parent before every fork, and ``after()`` there once the child has begun.

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
    """``PerProcess(make)()`` is what ``make()`` returned at the first call in this process.

    Examples
    --------
    >>> from primeattn.forks import PerProcess
    >>> numbers = PerProcess(list)
    >>> numbers() is numbers()
    True
    """

    __slots__ = ("_made", "_make")

    def __init__(self, make):
        self._make, self._made = make, {}

    def __call__(self):
        made = self._made.get(_process)
        # One step for Python: threads that come here at once agree, and no exception comes between.
        return self._made.setdefault(_process, self._make()) if made is None else made
