"""Windows has no fork, no process groups, few signals; the package needs none of them."""

import subprocess
import sys

SCRIPT = """
import concurrent.futures, os, pkgutil, signal, subprocess, sys, tempfile
from importlib import import_module
from types import SimpleNamespace

import matplotlib.pyplot, numba.cuda, scipy.fft, tqdm
import numpy as np

OS = '''
    fork forkpty register_at_fork killpg getpgid getpgrp setpgid setsid getsid nice wait wait3 wait4
    waitid WNOHANG sched_getaffinity sched_setaffinity sched_yield getloadavg sysconf confstr pathconf statvfs
    uname getuid geteuid getgid getegid getgroups setuid seteuid chown fchown lchown fdatasync sync mkfifo
    mknod pread pwrite preadv pwritev pipe2 posix_spawn posix_fallocate posix_fadvise sendfile openpty
    memfd_create O_DIRECTORY O_NOFOLLOW O_SYNC
'''
SIGNAL = '''
    SIGKILL SIGALRM SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGCHLD SIGPIPE SIGSTOP SIGCONT SIGTSTP ITIMER_REAL
    alarm setitimer getitimer pause pthread_kill pthread_sigmask sigpending sigwait siginterrupt
'''
for module, names in (os, OS), (signal, SIGNAL):
    for name in set(names.split()) & vars(module).keys():
        delattr(module, name)
for name in "fcntl grp posix pty pwd resource syslog termios tty".split():
    sys.modules[name] = None

import primeattn as pa
from primeattn import cli, files
from primeattn.bench import gpu_processes

for module in pkgutil.walk_packages(pa.__path__, "primeattn."):
    if not module.name.endswith("__main__") and module.name.split(".")[1] not in pa._BRIDGES:
        import_module(module.name)

pa.set_num_threads(2)
q, k, v = np.random.default_rng(0).standard_normal((3, 1, 2, 300, 64), np.float32)
pattern = pa.Pattern("primes", window=3, global_tokens=2)
out, lse = pa.attention(q, k, v, pattern)
gradients = [np.empty_like(q) for _ in range(3)]
pa.sparse_index_kernel_backward(*gradients, out, q, k, v, out, lse, pattern)
assert np.allclose(out, pa.kernels.reference.forward(q, k, v, pattern)[0], atol=1e-5)

with tempfile.TemporaryDirectory() as folder:
    for content in (b"old", b"new"):
        with files.written_whole(os.path.join(folder, "a")) as file:
            file.write(content)
    assert os.listdir(folder) == ["a"] and open(os.path.join(folder, "a"), "rb").read() == b"new"

killed = []
running = SimpleNamespace(started=SimpleNamespace(pid=0, kill=lambda: killed.append(True)))
gpu_processes._Running.kill(running)
assert killed
assert cli.main(["info"]) == 0
"""


def test_it_imports_and_runs_without_what_windows_lacks():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usable_cores" in done.stdout
