"""Files are written whole or not at all."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from primeattn import files
from primeattn.files import check_writable, written_whole


def write(path, content=b"new"):
    with written_whole(path) as file:
        file.write(content)


def test_an_error_keeps_the_old_file_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a"
    write(path, b"old")
    with pytest.raises(ZeroDivisionError), written_whole(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


def test_writers_of_one_path_do_not_meet(tmp_path):
    path = tmp_path / "a"
    with written_whole(path) as one, written_whole(path) as two:  # of one process, so of one process id
        one.write(b"one")
        two.write(b"two")
    assert path.read_bytes() == b"one" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("target", ["data/b", "data/missing", "chain"])
def test_a_symbolic_link_stays_one(target, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "b").write_bytes(b"old")
    (tmp_path / "chain").symlink_to("data/b")
    (tmp_path / "a").symlink_to(target)
    write(tmp_path / "a")
    assert (tmp_path / "a").is_symlink() and (tmp_path / target).read_bytes() == b"new"
    assert sorted(os.listdir(tmp_path)) == ["a", "chain", "data"]


def test_a_circle_of_links_stays_one(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        write(tmp_path / "a")
    assert (tmp_path / "a").is_symlink() and (tmp_path / "b").is_symlink()


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path, "folder"), (tmp_path / "pipe", "device or pipe"), ("/dev/null", "device")):
        with pytest.raises(ValueError, match=f"path: expected a file, got the {kind}"):
            write(path)
    assert os.listdir(tmp_path) == ["pipe"]


KILLED = """
import os, signal, sys
from primeattn.files import written_whole
with written_whole(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_writer_removes_what_killed_ones_left(tmp_path):
    path = tmp_path / "a[1]"
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", KILLED, str(path)])
        assert done.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 1  # the second has removed what the first left
    others = [".b.01234567.tmp", ".a[1].tmp", ".a[1].0123456.tmp", ".a1.01234567.tmp"]
    for name in others:
        (tmp_path / name).write_bytes(b"")
    with written_whole(path) as slow:  # a living writer
        write(path)
        assert len(os.listdir(tmp_path)) == len(others) + 2
        slow.write(b"slow")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "a[1]"]) and path.read_bytes() == b"slow"


def test_a_file_taken_for_a_leftover_before_it_was_locked_is_made_anew(tmp_path, monkeypatch):
    lock, taken = files._lock, []

    def late(file, wait=True):
        if not taken:
            taken.append(file.name)
            os.unlink(file.name)
        return lock(file, wait)

    monkeypatch.setattr(files, "_lock", late)
    write(tmp_path / "a")
    assert taken and os.listdir(tmp_path) == ["a"]


def test_many_writers_lose_and_leave_nothing(tmp_path):
    path, failed = tmp_path / "a", []

    def work(i):
        try:
            for _ in range(100):
                write(path, bytes([i]) * 5000)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            content = path.read_bytes()
            assert len(content) == 5000 and len(set(content)) == 1
    assert not failed and os.listdir(tmp_path) == ["a"]


def test_check_writable(tmp_path):
    check_writable(tmp_path / "new" / "folder")
    (tmp_path / "file").write_bytes(b"")
    for folder in ("file", "file/folder"):
        with pytest.raises(NotADirectoryError):
            check_writable(tmp_path / folder)
    assert os.listdir(tmp_path) == ["file"]
