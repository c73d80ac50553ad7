"""Fixtures; what else several files of tests here share is in cases.py and poison.py, which they import."""

from functools import lru_cache

import pytest

from primeattn.kernels.cpu import plan

pytest.register_assert_rewrite("cases", "poison")


@pytest.fixture(params=[True, False], ids=["one pass", "two passes"])
def passes(request, monkeypatch):
    """Both ways of the backward, whatever would be chosen."""
    monkeypatch.setattr(plan, "fuses", lambda *_: request.param)
    monkeypatch.setattr(plan, "_make_plans", lru_cache(plan._make_plans.__wrapped__))
