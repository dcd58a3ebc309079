"""Where NVIDIA's libraries lie: pip puts them among a Python's packages, where no linker looks."""
import glob
import os
import subprocess
import sys


def folders(python=sys.executable):
    """Of the packages of one Python."""
    paths = sys.path
    if python != sys.executable:
        try:
            words = [python, "-c", "import sys; print('\\n'.join(sys.path))"]
            paths = subprocess.run(words, capture_output=True, text=True, timeout=60).stdout.splitlines()
        except (OSError, subprocess.TimeoutExpired):
            paths = []
    return [folder for path in paths if path for folder in sorted(glob.glob(os.path.join(path, "nvidia", "*", "lib")))]


def environment(*first, pythons=()):
    """The environment in which Cherry finds them: folders that go first, the caller's, packages of Pythons."""
    known = [*first, *os.environ.get("LD_LIBRARY_PATH", "").split(":")]
    for python in (sys.executable, *pythons):
        known += folders(python)
    return dict(os.environ, LD_LIBRARY_PATH=":".join(dict.fromkeys(filter(None, known))))
