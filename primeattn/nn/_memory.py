"""Where a layer gets its arrays: new ones, or those of a workspace."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from primeattn.nn import Layer
    from primeattn.typing import AnyArray, Array, DTypeLike, Params, Shape, States


class Memory:
    """Source of the arrays of one call.

    Parameters
    ----------
    workspace : Workspace or None
        Arrays come from it and are valid until its reset; None gives new arrays.
    saving : bool
        Whether a pullback will follow. If not, what layers save for it is dropped at once.
    """

    __slots__ = ("saving", "workspace")

    def __init__(self, workspace: Workspace | None = None, saving: bool = True) -> None:
        if workspace is not None and not isinstance(workspace, Workspace):
            raise TypeError(f"workspace: expected a Workspace or None, got {type(workspace).__name__}")
        self.workspace, self.saving = workspace, saving

    @property
    def generation(self) -> int:
        return None if self.workspace is None else self.workspace.generation

    def hold(self) -> AbstractContextManager[Any]:
        """Context in which the workspace belongs to this thread."""
        return nullcontext() if self.workspace is None else self.workspace.guard()

    def take(self, shape: Shape, dtype: DTypeLike, empty: Callable[..., Any] = np.empty) -> Array:
        """Uninitialised C-ordered array, made by ``empty``."""
        return empty(shape, dtype) if self.workspace is None else self.workspace.take(shape, dtype, empty)

    def called(self, layer: Layer, x: Array, ps: Params, st: States) -> None:
        """Called before ``layer`` is applied; override it to look into a model."""

    def attended(self, q: AnyArray, k: AnyArray, lse: AnyArray, segments: Any) -> None:
        """Called after a forward attention kernel; override it as ``called``."""

    def copy(self, array: Array) -> Array:
        result = self.take(array.shape, array.dtype)
        np.copyto(result, array)
        return result
