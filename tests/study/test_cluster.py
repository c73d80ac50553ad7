import pytest

from primeattn.kernels import get_num_threads
from primeattn.study import run

distributed = pytest.importorskip("distributed")


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_local_cluster_gives_the_same(runs, tmp_path, processes):
    run(runs, out=tmp_path / "here")
    threads = get_num_threads()
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.Client(processes=processes, **options) as client:
        records = run(runs, out=tmp_path / "there", scheduler=client)
    assert get_num_threads() == threads and [record["run"] for record in records] == runs
    here, there = (
        sorted((tmp_path / name / "runs.jsonl").read_text().splitlines()) for name in ("here", "there")
    )
    assert here == there
