"""What several files of tests here share is in cases.py and poison.py, which they import by these names."""

import pytest

pytest.register_assert_rewrite("cases", "poison")
