"What several tests need: the project's folder, and one small reproduction shared by all."
import os, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

def call(*command, **kwargs):
    "A command of this environment, its output captured."
    return subprocess.run([str(BIN/command[0]), *map(str, command[1:])], capture_output=True, text=True, **kwargs)

@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    "A folder in which `fas_reproduce --profile smoke` was run once."
    root = tmp_path_factory.mktemp("smoke")
    done = call("fas_reproduce", "--profile", "smoke", "--root", root, "--quiet", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return root
