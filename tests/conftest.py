"What several tests need: the project's folder, and one small reproduction shared by all."
import os, subprocess, sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

def call(*command, **kwargs):
    "A command of this environment, its output captured."
    return subprocess.run([str(BIN/command[0]), *map(str, command[1:])], capture_output=True, text=True, **kwargs)

def pytest_configure(config):
    config.addinivalue_line("markers", "long: whole commands again under rarer circumstances; `make test-long`, not "
                            "part of `make test`")

@pytest.hookimpl(trylast=True)   # after `-m` has chosen
def pytest_collection_modifyitems(items):
    """The first test begins the reproduction, and those that do not need it run meanwhile on the other process; what
    needs it comes last, longest first, so that no process ends long before the other."""
    long = ["test_cluster.py", "test_smoke.py"]
    items.sort(key=lambda item: ("smoke" in item.fixturenames, item.path.name not in long))
    begins = next((item for item in items if "smoke" in item.fixturenames), None)
    if begins: items.insert(0, items.pop(items.index(begins)))

@pytest.fixture(scope="session")
def smoke(tmp_path_factory, worker_id):
    "A folder in which `fas_reproduce --profile smoke` was run once, shared by the processes that test."
    base = tmp_path_factory.getbasetemp()
    root = (base if worker_id == "master" else base.parent)/"smoke"
    with FileLock(f"{root}.lock"):
        if not (root/"reports/smoke/index.html").exists():
            done = call("fas_reproduce", "--profile", "smoke", "--root", root, "--quiet", cwd=ROOT)
            assert done.returncode == 0, done.stdout + done.stderr
    return root
