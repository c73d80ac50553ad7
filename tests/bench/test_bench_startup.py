import json

import pytest

from primeattn.bench import startup


def test_a_process_of_its_own(tmp_path):
    code = "import json, os; print(json.dumps(os.environ.get('NUMBA_CACHE_DIR')))"
    assert startup._child(code, str(tmp_path)) == str(tmp_path)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        startup._child("1 / 0", None)


def test_import_is_cheap():
    assert 0 < startup._child(startup._IMPORT, None)["import_s"] < 2


@pytest.mark.slow  # compiles
def test_first_calls(capsys):
    exec(startup._CALLS, {})  # in this process, where the kernels may be compiled already
    seconds = json.loads(capsys.readouterr().out)
    assert set(seconds) == {"forward_s", "backward_s"} and all(s > 0 for s in seconds.values())


def test_the_first_process_is_cold_and_the_others_share_its_cache(monkeypatch):
    caches = []

    def child(code, cache):
        if code == startup._IMPORT:
            assert cache is None
            return {"import_s": 0.1}
        caches.append(cache)
        return (
            {"forward_s": 20.0, "backward_s": 5.0}
            if len(caches) == 1
            else {"forward_s": 0.5, "backward_s": 0.25}
        )

    monkeypatch.setattr(startup, "_child", child)
    results = startup.run(repeats=3)
    assert [(row["median_s"], row["calls"]) for row in results["rows"]] == [
        (0.1, 3),
        (0.5, 3),
        (0.25, 3),
        (25.0, 1),
    ]
    assert len(caches) == 4 and len(set(caches)) == 1 and caches[0] is not None
    assert "first forward and backward, empty cache  " in startup.text(results)
