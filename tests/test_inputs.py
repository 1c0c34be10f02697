"Inputs of daily life, as a user gives them: phones, Macs, plain scripts, odd terminals, busy files."
import json, os, re, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import trees
from conftest import BIN
from PIL import Image
from skimage.data import astronaut

from fas_nb import cli
from fas_nb.datasets import open_dataset, read_frames
from fas_nb.pictures import read_image
from fas_nb.vocab import InputError, Presentation

@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    "An untrained detector."
    import torch
    from fas_nb.dccdn import DCCDN
    from fas_nb.detector import save_model
    from fas_nb.specs import MCREAOptions, ModelOptions, RunSpec, ScoringOptions, TrainingOptions
    from fas_nb.vocab import Fold
    torch.manual_seed(0)
    spec = RunSpec(Fold("a", "b", "c", ("x",), (), ()), "full", ModelOptions(width=4), TrainingOptions(size=64),
                   MCREAOptions(), ScoringOptions(size=64), 0, "", "", "")
    path = tmp_path_factory.mktemp("weights")/"model.safetensors"
    save_model(DCCDN(width=4), path, spec=spec, threshold=.1, origin="rendered", frame_size=96)
    return path

def judged(capsys, *arguments):
    "Exit code, lines and complaints of `fas_predict` in this process."
    code = cli.fas_predict([str(a) for a in arguments])
    out = capsys.readouterr()
    assert "Traceback" not in out.err
    return code, out.out.strip().splitlines(), out.err

def test_training_and_verdict_read_alike(tmp_path):
    "Orientation, transparency, animation: `read_frames` and `read_image` give the same pixels."
    card = np.zeros((64, 96, 3), np.uint8); card[:32] = 200; card[:, :24, 0] = 255
    alpha = np.dstack([card, np.tile(np.uint8([0, 80, 255]), (64, 32))])
    files = {f"exif{o}.{kind}": (Image.fromarray(card), o, {}) for o in range(1, 9)
             for kind in ("png", "jpg", "tif", "webp")}
    files |= {"alpha.png": (Image.fromarray(alpha), 1, {}),
              "alpha.webp": (Image.fromarray(alpha), 1, dict(lossless=True)),
              "grey.png": (Image.fromarray(card[..., 0]), 6, {})}
    files |= {f"moving.{kind}": (Image.fromarray(card),
                                 1, dict(save_all=True, append_images=[Image.fromarray(card[::-1])]))
              for kind in ("gif", "webp", "png")}
    for name, (image, orientation, how) in files.items():
        tag = Image.Exif(); tag[0x0112] = orientation
        image.save(tmp_path/name, **({} if name.endswith("gif") else dict(exif=tag)), **how)
        frames = read_frames(Presentation(name, "table", "", "", "", "bona_fide", str(tmp_path/name)))
        assert len(frames) == 1 and np.array_equal(frames[0], read_image(tmp_path/name)), name

def test_a_folder_from_a_phone_or_a_mac(weights, tmp_path, capsys):
    """Companions and thumbnails are left alone, every picture is judged, what cannot be read is said, and an empty
    folder stops nothing."""
    folder, empty = tmp_path/"mac", tmp_path/"empty"
    for d in (folder/".thumbnails", folder/"__MACOSX", empty): d.mkdir(parents=True)
    for name in ("ok.jpg", ".thumbnails/t.jpg"): Image.fromarray(astronaut()).save(folder/name)
    Image.fromarray(astronaut()).save(folder/"a.jfif", format="JPEG")
    for name in ("._ok.jpg", "__MACOSX/._ok.jpg"):
        (folder/name).write_bytes(bytes.fromhex("0005160700020000") + bytes(200))
    (folder/"b.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100)); (folder/"c.dng").write_bytes(b"raw")
    code, lines, complaints = judged(capsys, folder, empty, "--model", weights)
    names = [line.split(":")[0] for line in lines]
    assert code == 1 and sorted(Path(n).name for n in names) == ["a.jfif", "b.HEIC", "empty", "ok.jpg"]
    assert "HEIC" in next(line for line in lines if "b.HEIC" in line) and "1 .dng" in complaints
    assert sum("score" in line for line in lines) == 2
    code, lines, complaints = judged(capsys, empty, "--model", weights)
    assert code == 2 and "holds no picture" in complaints

def test_a_heic_photo_is_read_where_pillow_heif_is(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.fromarray(astronaut())).save(tmp_path/"a.heic", quality=95)
    assert np.abs(read_image(tmp_path/"a.heic").astype(int) - astronaut()).mean() < 4

def test_no_verdict_is_lost(weights, tmp_path):
    """A name that the terminal cannot show, one that is too long, a backend that is not there: the other rows come,
    and each trouble is one line."""
    good = tmp_path/"good.png"; Image.fromarray(astronaut()).save(good)
    odd = bytes(tmp_path) + b"/caf\xe9.png"
    with open(odd, "wb") as file: file.write(good.read_bytes())
    done = subprocess.run([str(BIN/"fas_predict"), odd, "x"*300, str(good), "--model", str(weights), "--overlay",
                           str(tmp_path/"out")], capture_output=True,
                          env=os.environ | {"PYTHONIOENCODING": "utf-8:strict", "MPLBACKEND": "module://nowhere"})
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 1 and b"Traceback" not in done.stderr and len(lines) == 3, done.stderr.decode()
    assert "score" in lines[0] and "score" in lines[2] and "cannot be opened" in lines[1] and len(lines[1]) < 700
    assert len(list((tmp_path/"out").iterdir())) == 2

def test_names_that_are_too_long(tmp_path, capsys):
    long = "x"*300
    for command, arguments in ((cli.fas_check, ("oulu_npu", long, "--quiet")),
                               (cli.fas_check, ("table", long, "--quiet")),
                               (cli.fas_predict, (long, "--model", long)),
                               (cli.fas_export, (f"{long}.safetensors", "a.onnx"))):
        code = command(list(arguments))
        out = capsys.readouterr()
        said = out.err or out.out
        assert code in (1, 2) and "Traceback" not in said, said

SCRIPT = """
import numpy as np, sys; from PIL import Image
for k in "ab": Image.fromarray(np.full((64, 64, 3), 128, np.uint8)).save(f"{k}.png")
open("t.csv", "w").write("path,species,subject\\na.png,bona_fide,a\\nb.png,bona_fide,b\\n")
from fas_nb.datasets import open_dataset
from fas_nb.annotation import annotate_dataset, extract_frames
found = open_dataset("table", "t.csv")
print(extract_frames(found, "frames", n=1, size=96, progress=False HOW))
print(annotate_dataset(found, "frames", "annotations", "polygon", progress=False HOW))
"""

@pytest.mark.parametrize("how", ["", ", workers=2"])
@pytest.mark.parametrize("stdin", [False, True])
def test_a_plain_script_without_a_guard(tmp_path, how, stdin):
    text = SCRIPT.replace(" HOW", how)
    (tmp_path/"plain.py").write_text(text)
    done = subprocess.run([sys.executable, "-" if stdin else "plain.py"], input=text if stdin else None, cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines() == ["2 done, 0 skipped, 0 failed"]*2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr

def test_a_process_that_is_being_started_starts_no_others(monkeypatch):
    import multiprocessing
    from fas_nb.parallel import run_parallel
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(InputError, match="__main__"): run_parallel(len, ["a", "b"], workers=2, progress=False)

STOPPED = """
import os, time
from fas_nb.parallel import run_parallel

def unit(i):
    with open("done.txt", "a") as file: file.write(f"{os.getpid()}\\n")
    time.sleep(.3)
    return i

if __name__ == "__main__": assert run_parallel(unit, range(24), workers=2, progress=False) == list(range(24))
"""

@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="this system stops no processes")
def test_processes_that_were_stopped_for_a_while_are_not_lost(tmp_path):
    "A laptop that slept, Ctrl-Z and `fg`: Dask's limit of five minutes, here two seconds, is not taken for death."
    (tmp_path/"job.py").write_text(STOPPED)
    done, environment = tmp_path/"done.txt", dict(os.environ, DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="2s")
    job = subprocess.Popen([sys.executable, "job.py"], cwd=tmp_path, env=environment)
    while not done.exists() or len(done.read_text().split()) < 6:
        assert job.poll() is None
        time.sleep(.1)
    workers = set(map(int, done.read_text().split()))
    for worker in workers: os.kill(worker, signal.SIGSTOP)
    time.sleep(8)
    for worker in workers: os.kill(worker, signal.SIGCONT)
    assert job.wait(timeout=120) == 0
    assert len(done.read_text().split()) == 24      # nothing was given to another process again

def test_what_failed_is_kept_on_ctrl_c(tmp_path, monkeypatch):
    from fas_nb import annotation
    for name in "abc": Image.new("RGB", (8, 8)).save(tmp_path/f"{name}.png")
    (tmp_path/"t.csv").write_text("path,species\na.png,bona_fide\nb.png,bona_fide\nc.png,bona_fide\n")
    def extract(presentation, folder, annotations):
        if "a.png" in presentation.path: raise ValueError("broken")
        if "b.png" in presentation.path: raise KeyboardInterrupt
    monkeypatch.setattr(annotation, "_extract", extract)
    monkeypatch.setattr(annotation, "crop_inputs", lambda *a: {"x": "y"})
    with pytest.raises(KeyboardInterrupt):
        annotation.fill_stores(open_dataset("table", tmp_path/"t.csv"), tmp_path/"out", 1, 96, "polygon",
                               progress=False)
    assert [Path(p).name for p in annotation.failed_files(tmp_path/"out")] == ["a.png"]

def test_a_wrong_segmenter_is_refused_before_any_work(tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path/"a.png")
    (tmp_path/"t.csv").write_text("path,species\na.png,bona_fide\n")
    code = cli.fas_annotate(["table", str(tmp_path/"t.csv"), "--segmenter", "WRONG", "--out", str(tmp_path/"out"),
                             "--root", str(tmp_path), "--quiet"])
    assert code == 2 and "use one of" in capsys.readouterr().err and not (tmp_path/"out").exists()

def test_own_weights(tmp_path, monkeypatch, capsys):
    "A folder or a file of one's own, by option or environment; the message of a failed download names both."
    import requests
    from fas_nb.checkpoints import CHECKPOINTS, fetch_checkpoint
    monkeypatch.setattr(requests, "get", lambda *a, **k: (_ for _ in ()).throw(requests.ConnectionError("no network")))
    monkeypatch.setenv("FAS_NB_WEIGHTS", str(tmp_path))
    with pytest.raises(InputError, match=r"--checkpoint PATH.*FAS_NB_WEIGHTS") as error:
        fetch_checkpoint(CHECKPOINTS["sam_vit_b"], progress=False)
    assert str(tmp_path) in str(error.value)
    own = tmp_path/"mine.pth"; own.write_bytes(b"other weights")
    monkeypatch.setenv("FAS_NB_WEIGHTS", str(own))
    with pytest.raises(InputError, match="mine.pth has"): fetch_checkpoint(CHECKPOINTS["sam_vit_b"], progress=False)
    (tmp_path/"t.csv").write_text("path,species\n")
    assert cli.fas_annotate(["table", str(tmp_path/"t.csv"), "--checkpoint",
                             str(tmp_path/"none.pth")]) == 2 and "none.pth" in capsys.readouterr().err
    assert cli.fas_annotate(["table", str(tmp_path/"t.csv"), "--device",
                             "gpu"]) == 2 and "use cpu, cuda" in capsys.readouterr().err

def test_annotate_tells_whose_masks_where_and_why(tmp_path, monkeypatch, capsys):
    "And how long they take, where the best that is there is large and there is no GPU."
    from fas_nb import annotation, profiles
    for name in ("FAS_NB_DEVICE", "FAS_NB_PRECISION"): monkeypatch.setenv(name, "")    # the command sets them
    Image.fromarray(astronaut()).save(tmp_path/"a.png")
    (tmp_path/"t.csv").write_text("path,species\na.png,bona_fide\n")
    def tells(*more):
        code = cli.fas_annotate([*map(str, ("table", tmp_path/"t.csv", "--out", tmp_path/"out", "--root", tmp_path,
                                            "--frames", 1, "--size", 96, "--quiet", "--workers", 1)), *more])
        assert code == 0
        return capsys.readouterr()
    said = tells("--segmenter", "polygon", "--json")
    assert json.loads(said.out)["segmenter"] == dict(name="polygon", why="asked for", device="cpu", precision="full")
    assert said.err == ""
    assert "masks: polygon (asked for), on cpu, full precision" in tells("--segmenter", "polygon").out
    monkeypatch.setattr(profiles, "best_segmenter", lambda: "sam_vit_h")
    monkeypatch.setattr(annotation, "fill_stores", lambda *a, **k: annotation.Summary(0, 1))
    said = tells("--device", "cpu", "--precision", "full", "--json")
    assert json.loads(said.out)["segmenter"] == dict(
        name="sam_vit_h", why="the best in the cache, for real data", device="cpu", precision="full")
    assert "sam_vit_h (the best in the cache, for real data) runs on the CPU: about" in said.err
    assert 50 < int(re.search(r"about (\d+) s of a core", said.err)[1]) < 500 and "for 1 picture on 1 core " in said.err
    said = tells("--profile", "paper", "--device", "cpu", "--json")
    assert json.loads(said.out)["segmenter"]["why"] == "that of profile paper"

def test_coco_loads_results(tmp_path):
    "pycocotools copies `info` when it loads results."
    from pycocotools.coco import COCO
    from fas_nb.annotation import fill_stores
    from fas_nb.store import AnnotationStore, FrameStore, write_coco
    Image.fromarray(astronaut()).save(tmp_path/"a.png")
    (tmp_path/"t.csv").write_text("path,species\na.png,bona_fide\n")
    assert fill_stores(open_dataset("table", tmp_path/"t.csv"), tmp_path/"out", 1, 96, "polygon", progress=False).ok
    write_coco(FrameStore(tmp_path/"out/frames"), AnnotationStore(tmp_path/"out/annotations"), tmp_path/"c.json")
    told = json.loads((tmp_path/"c.json").read_text())
    assert told["info"]["description"] and told["licenses"][0]["name"]
    coco = COCO(tmp_path/"c.json")
    results = [dict(image_id=a["image_id"], category_id=a["category_id"], segmentation=a["segmentation"], score=1.)
               for a in told["annotations"]]
    assert len(coco.loadRes(results).anns) == len(results) > 3

def test_given_faces_that_were_not_used_are_counted(tmp_path):
    from fas_nb.datasets import faces_path, frame_indices
    from fas_nb.annotation import extract_frames
    trees.TREES["replay_attack"](tmp_path)
    p = open_dataset("replay_attack", tmp_path)[0]
    faces_path(p).write_text("".join(f"{k} {'nan' if k % 2 else 8} 6 16 12\n" for k in range(40)))
    done = extract_frames([p], tmp_path/"frames", n=4, size=32, progress=False, annotations=tmp_path/"face-locations")
    assert done.ok and done.given_not_used == sum(i % 2
                                                  for i in frame_indices(p, 4)) > 0 and "could not be used" in str(done)
