"What the stores promise about processes: a killed run keeps what it finished, two processes give what one gives."
import json, os, shutil, signal, subprocess, sys, threading, time
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import call
from PIL import Image
from skimage.data import astronaut

from fas_nb.explorer import PAINTED, PromptEditor
from fas_nb.annotation import annotate_dataset, extract_frames
from fas_nb.maps import loss_mask
from fas_nb.store import AnnotationStore, FrameStore
from fas_nb.vocab import Presentation

N = 12
CHILD = """
import sys; sys.path.insert(0, {tests!r})
from test_annotation_store import album
from fas_nb.annotation import annotate_dataset, extract_frames
{call}
"""

def album(folder):
    "Twelve photos of one face, each under its own noise."
    photo = astronaut()[:256, 90:346]
    presentations = []
    for i in range(N):
        path = Path(folder)/f"{i}.png"
        if not path.exists():
            noise = np.random.default_rng(i).normal(0, 6, photo.shape)
            Image.fromarray((photo + noise).clip(0, 255).astype(np.uint8)).save(path)
        presentations.append(Presentation(f"photos/{i}", "photos", str(i), "", "",
                                          ("bona_fide", "prints", "glasses")[i % 3], str(path)))
    return presentations

def kill_when(call, finished, at_least):
    "Run `call` in a process of its own and kill it as soon as it finished `at_least` presentations."
    child = subprocess.Popen([sys.executable, "-c", CHILD.format(tests=str(Path(__file__).parent), call=call)],
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    limit = time.time() + 120
    while len(finished()) < at_least:
        assert child.poll() is None, child.stderr.read().decode()[-2000:]
        assert time.time() < limit, "the child finished nothing in two minutes"
        time.sleep(.001)
    child.send_signal(signal.SIGKILL); child.wait(); child.stderr.close()
    return {f: f.stat().st_mtime_ns for f in finished()}

@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A run that nothing disturbed."
    root = tmp_path_factory.mktemp("whole")
    people = album(root)
    assert extract_frames(people, root/"frames", n=1, size=96, workers=1, progress=False).done == N
    assert annotate_dataset(people, root/"frames", root/"annotation", workers=1, progress=False).done == N
    return root, people

def test_killed_extraction_goes_on(whole, tmp_path):
    root, people = whole
    kept = kill_when(f"extract_frames(album({str(root)!r}), {str(tmp_path)!r}, n=1, size=96, workers=1, "
                     "progress=False)",
                     lambda: list(tmp_path.glob("*.npz")), 3)
    assert 3 <= len(kept) < N
    summary = extract_frames(people, tmp_path, n=1, size=96, workers=1, progress=False)
    assert (summary.done, summary.skipped, summary.ok) == (N - len(kept), len(kept), True)   # only what was missing
    assert all(f.stat().st_mtime_ns == t for f, t in kept.items())
    ids = [p.id for p in people]
    assert FrameStore(tmp_path).hash(ids) == FrameStore(root/"frames").hash(ids)

@pytest.mark.long
def test_killed_annotation_goes_on(whole, tmp_path):
    root, people = whole
    kept = kill_when(f"annotate_dataset(album({str(root)!r}), {str(root/'frames')!r}, {str(tmp_path)!r}, workers=1, "
                     "progress=False)",
                     lambda: list(tmp_path.glob("rows/*.json")), 3)
    assert 3 <= len(kept) < N
    summary = annotate_dataset(people, root/"frames", tmp_path, workers=1, progress=False)
    assert (summary.done, summary.skipped, summary.ok) == (N - len(kept), len(kept), True)
    assert all(f.stat().st_mtime_ns == t for f, t in kept.items())
    ids = [p.id for p in people]
    assert AnnotationStore(tmp_path).hash(ids) == AnnotationStore(root/"annotation").hash(ids)
    assert AnnotationStore(tmp_path).manifest().equals(AnnotationStore(root/"annotation").manifest())

def test_two_processes_equal_one(whole, tmp_path):
    root, people = whole
    assert extract_frames(people, tmp_path/"frames", n=1, size=96, workers=2, progress=False).ok
    assert annotate_dataset(people, tmp_path/"frames", tmp_path/"annotation", workers=2, progress=False).ok
    ids = [p.id for p in people]
    assert FrameStore(tmp_path/"frames").hash(ids) == FrameStore(root/"frames").hash(ids)
    assert AnnotationStore(tmp_path/"annotation").hash(ids) == AnnotationStore(root/"annotation").hash(ids)

def test_full_disk_is_a_recorded_failure(whole, tmp_path, monkeypatch):
    "A write that fails leaves neither a half file nor a row, and the next run repairs it."
    root, people = whole
    full, write = {"now": True}, Path.write_bytes
    def no_space(self, data):
        if full["now"] and "depth" in self.parts: write(self, data[:10]); raise OSError(28, "No space left on device")
        return write(self, data)
    monkeypatch.setattr(Path, "write_bytes", no_space)
    summary = annotate_dataset(people[:2], root/"frames", tmp_path, workers=1, progress=False)
    assert summary.done == 0 and len(summary.failures) == 2 and "No space left" in summary.failures[0][1]
    assert not list(tmp_path.glob("depth/*/*")) and not list(tmp_path.glob("rows/*"))
    full["now"] = False
    assert annotate_dataset(people[:2], root/"frames", tmp_path, workers=1, progress=False).done == 2

@pytest.mark.long
def test_workers_are_killed_in_the_middle(whole, tmp_path):
    "On a cluster of two workers; others take their places, and the result is complete and the same."
    from distributed import Client, LocalCluster
    root, people = whole
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0",
                      silence_logs=50) as cluster, Client(cluster) as client:
        victims = [nanny.pid for nanny in cluster.workers.values()]
        def kill():   # one while faces are cut, one while they are annotated
            for victim, finished in zip(victims, ("frames/*.npz", "annotation/rows/*.json")):
                while not list(tmp_path.glob(finished)): time.sleep(.005)
                os.kill(victim, signal.SIGKILL)
        killer = threading.Thread(target=kill, daemon=True); killer.start()
        how = dict(scheduler=cluster.scheduler_address, progress=False)
        assert extract_frames(people, tmp_path/"frames", n=1, size=96, **how).ok
        summary = annotate_dataset(people, tmp_path/"frames", tmp_path/"annotation", **how)
        killer.join(20)
        assert not killer.is_alive() and not set(victims) & set(client.run(os.getpid).values())
    ids = [p.id for p in people]
    assert summary.ok and summary.done == N and AnnotationStore(tmp_path/"annotation").hash(ids) == AnnotationStore(
        root/"annotation").hash(ids)

def test_painted_pixels_survive_another_annotation(whole, tmp_path):
    "Glasses, background and ignored pixels that a person painted are kept, and the loss leaves the ignored ones out."
    root, people = whole
    shutil.copytree(root/"annotation", tmp_path/"annotation")
    frames, store, id = FrameStore(root/"frames"), AnnotationStore(tmp_path/"annotation"), people[0].id
    editor = PromptEditor.of(frames, store, id, segmenter="polygon")
    places = {"glasses": 168, "ignored": 152, "background": 4}                  # nasion, chin, tip of the nose
    assert set(places) == set(PAINTED)
    gained = {target: editor.click(target, *editor.landmarks.points[at, :2]) for target, at in places.items()}
    assert min(gained.values()) >= 4 and editor.save()
    (row,) = [p for p in (store.folder/"rows").glob("*.json") if store.path("regions", id, 0).parent.name == p.stem]
    row.unlink()
    assert annotate_dataset(people, root/"frames", store.folder, workers=1, progress=False).done == 1
    labels = AnnotationStore(store.folder).labels(frames.read([id]))
    assert (labels.regions[0] == editor.regions).all()
    assert (labels.regions == 11).sum() == gained["glasses"] and (~loss_mask(labels.regions)).sum() == gained["ignored"]
    x, y = editor.landmarks.points[4, :2].astype(int)
    assert labels.regions[0, y, x] == 0 and not labels.depth[0][np.isin(labels.regions[0], (0, 11, 255))].any()

def test_command_samples_tries_again_corrects_and_exports(tmp_path):
    """On a table of files: some of it, then all with a bad file, then the bad file alone once it is mended, then a
    corrected map, and COCO."""
    folder = tmp_path/"own"; folder.mkdir()
    for i in range(4):
        Image.fromarray(np.clip(astronaut()[:320, 60:380] + np.random.default_rng(i).normal(0, 8, (320, 320, 3)), 0,
                                255).astype(np.uint8)).save(folder/f"{i}.png")
    good = (folder/"2.png").read_bytes(); (folder/"2.png").write_bytes(good[:2000])
    (folder/"table.csv").write_text("path,species,subject\n"
                                    + "".join(f"{i}.png,{'prints' if i % 2 else 'bona_fide'},{i}\n" for i in range(4)))
    def annotate(*more):
        return call("fas_annotate", "table", folder/"table.csv", "--out", tmp_path/"out", "--frames", "1", "--size",
                    "96", "--segmenter", "polygon", "--quiet", "--workers", "1", "--json", *more)
    told = lambda done: json.loads(done.stdout)
    some = annotate("--limit", "2")
    # 0 and 2, which is broken
    assert some.returncode == 1 and told(some)["presentations"] == 2 and told(some)["annotated"] == 1, some.stderr
    whole = told(annotate())
    assert (whole["annotated"], whole["already_there"],
            len(whole["failed"])) == (2, 1, 1) and "2.png" in whole["failed"][0][0]
    (folder/"2.png").write_bytes(good)
    again = annotate("--only-failed")
    assert again.returncode == 0 and (told(again)["presentations"], told(again)["annotated"]) == (1, 1), again.stderr
    assert told(annotate("--only-failed"))["presentations"] == 0 and (tmp_path/"out/doubtful.png").stat().st_size > 5000
    regions = sorted((tmp_path/"out/annotations/regions").rglob("*.png"))
    mended = np.array(Image.open(regions[0])); mended[mended == 10] = 1
    (tmp_path/"mended"/regions[0].parent.name).mkdir(parents=True)
    Image.fromarray(mended).save(tmp_path/"mended"/regions[0].parent.name/regions[0].name)
    assert "1 skin" in (tmp_path/"out/annotations/regions/legend.gpl").read_text()
    last = annotate("--corrections", tmp_path/"mended", "--coco", tmp_path/"coco.json")
    assert last.returncode == 0 and told(last)["corrected"] == 1 and (np.array(Image.open(regions[0]))
                                                                      == mended).all(), last.stderr
    assert len(json.loads((tmp_path/"coco.json").read_text())["images"]) == 4
