import pytest

from primeattn.study.records import Records


def test_lines_are_added_and_read_again(tmp_path):
    path = tmp_path / "a.jsonl"
    with Records(path) as records:
        assert records.found == []
        records.append({"a": 0.1})
        assert path.read_bytes() == b'{"a": 0.1}\n'  # at once
        records.append({"b": None})
    with Records(path) as records:
        assert records.found == [{"a": 0.1}, {"b": None}]
        records.append({"c": "x\ny"})
    assert path.read_bytes() == b'{"a": 0.1}\n{"b": null}\n{"c": "x\\ny"}\n'


@pytest.mark.parametrize("torn", [b'{"b": 2', b'{"b": 2}', b"\xff\x00"])
def test_a_torn_line_is_cut_off(tmp_path, torn):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + torn)
    with Records(path) as records:
        assert records.found == [{"a": 1}]
        records.append({"c": 3})
    assert path.read_bytes() == b'{"a": 1}\n{"c": 3}\n'


def test_what_is_no_json_is_left_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\nmine\n{"b')
    with pytest.raises(ValueError, match=r"out: line 2 of .* is no JSON: b'mine'"):
        Records(path)
    assert path.read_bytes() == b'{"a": 1}\nmine\n{"b'


def test_one_writer_at_a_time(tmp_path):
    with Records(tmp_path / "a") as records:
        records.append(1)
        with pytest.raises(RuntimeError, match="out: another study is writing to"):
            Records(tmp_path / "a")
    with Records(tmp_path / "a") as records:
        assert records.found == [1]
