"Rendering with processes: their number changes no byte, and a killed one loses only what it was at."
import os, signal, subprocess, sys, time

import pytest
from fas_nb.datasets import CAN_RENDER
from fas_nb.synthetic import MARKER, SPLITS, RenderProfile, render_dataset
from fas_nb.vocab import BONA_FIDE

TINY = RenderProfile("tiny", 4, 1, .5, {"wmca": (1, 1, 1)}, {BONA_FIDE: (3, 1, 1), "prints": (2, 0, 1)})
CHILD = f"""
from fas_nb.synthetic import RenderProfile, render_dataset
import sys
if __name__ == "__main__": render_dataset("wmca", sys.argv[1], {TINY!r}, workers=1, progress=False)
"""

def test_the_layouts_named_are_those_that_are_planned(): assert set(CAN_RENDER) == set(SPLITS)

def files(root): return {str(p.relative_to(root.parent)): p.read_bytes() for p in root.parent.rglob("*") if p.is_file()}

@pytest.mark.long
def test_workers_and_a_kill_change_nothing(tmp_path):
    expected = files(render_dataset("wmca", tmp_path/"one", TINY, workers=1, progress=False))
    assert files(render_dataset("wmca", tmp_path/"two", TINY, workers=2, progress=False)) == expected

    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path/"killed")],
                             env={**os.environ, "OMP_NUM_THREADS": "1"})
    end = time.monotonic() + 120
    while not list((tmp_path/"killed").rglob("*.h5")) and time.monotonic() < end and child.poll() is None:
        time.sleep(.02)
    child.send_signal(signal.SIGKILL); child.wait()
    left = {p: p.stat().st_mtime_ns for p in (tmp_path/"killed").rglob("*.h5")}
    assert 0 < len(left) < 8 and not (tmp_path/"killed"/"wmca"/MARKER).exists()
    root = render_dataset("wmca", tmp_path/"killed", TINY, workers=1, progress=False)
    assert files(root) == expected
    assert all(p.stat().st_mtime_ns == t for p, t in left.items())   # finished files were kept as they were
