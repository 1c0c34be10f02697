"Commands as a user calls them: exit codes, one clear line, nothing half-written."
import json, shutil
from pathlib import Path

import pytest
from conftest import ROOT, call
from fas_nb import cli

COMMANDS = "fas_synth fas_check fas_annotate fas_run fas_reproduce fas_predict fas_export".split()

@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(name):
    done = call(name, "--help")
    assert done.returncode == 0 and f"example:  {name} " in done.stdout

@pytest.mark.parametrize("command, code, says", [
    (("fas_reproduce", "--profile", "dmeo"), 2, "use one of smoke, quick"),
    (("fas_reproduce", "--tables", "7"), 2, "table 7 is unknown"),
    (("fas_reproduce", "--tables", ""), 2, "names no table"),
    (("fas_reproduce", "--set", "training.stpes=3"), 2, "training.{size,steps"),
    (("fas_reproduce", "--data-root", "nowhere"), 2, "nowhere does not exist"),
    (("fas_reproduce", "--verify", "nowhere"), 2, "such as reports/demo"),
    (("fas_reproduce", "--slurm", "nowhere.yaml"), 2, "cores, memory, walltime"),
    (("fas_run", "--protocol", "oulu_npu/9"), 2, "oulu_npu"),
    (("fas_run", "--variant", "theirs", "--profile", "smoke"), 2, "theirs"),
    (("fas_run", "--show", "123456"), 1, "no run"),
    (("fas_check", "mnist", "."), 2, "mnist"),
    (("fas_annotate", "wmca", "nowhere", "--out", "o"), None, "nowhere"),
    (("fas_synth", "--out", "o", "--layout", "mnist"), 2, "mnist"),
    (("fas_synth", "--out", "o", "--profile", "enormous"), 2, "enormous"),
    (("fas_predict", "a.jpg", "--model", "m.safetensors"), None, "m.safetensors"),
    (("fas_predict", "--model", "m.safetensors"), 2, "--camera N"),
    (("fas_export", "m.safetensors", "m.tflite"), 2, ".onnx"),
    (("fas_export", "m.onnx", "n.onnx"), 2, "no model m.onnx"),
    (("fas_export", "m.safetensors", "m.onnx"), 2, "m.safetensors"),
    (("fas_predict", "a.jpg", "--model", "m.onnx"), 2, "fas_export"),
], ids=lambda x: " ".join(x) if isinstance(x, tuple) else "")
def test_mistakes_end_in_one_line(command, code, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")               # commands change it for themselves
    data = ["--root", str(tmp_path)] if command[0] == "fas_run" or "--tables" in command or "--set" in command else []
    done = getattr(cli, command[0])([*command[1:], *data])
    told = capsys.readouterr().err
    assert done == (code or done) and done in (1, 2), told
    assert len(told.strip().splitlines()) == 1 and says in told, told
    assert not [p for p in tmp_path.rglob("*") if p.is_file()], "nothing half-written"

def test_a_mistake_ends_the_process_with_its_code(tmp_path):
    done = call("fas_run", "--variant", "theirs", "--profile", "smoke", "--root", tmp_path, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr and len(
        done.stderr.strip().splitlines()) == 1, done.stderr

def test_check_reports_a_missing_folder(tmp_path):
    done = call("fas_check", "oulu_npu", "nowhere", "--quiet", cwd=tmp_path)
    assert done.returncode == 1 and "nowhere" in done.stdout and "Traceback" not in done.stderr

def test_results_go_where_the_user_works(tmp_path):
    "The working folder; inside a checkout its root; never the folder that the package happens to lie in."
    code = "import os, sys; os.chdir(sys.argv[1]); import fas_nb.reports as r; print(r.project_root())"
    (tmp_path/"checkout/nbs/deep").mkdir(parents=True); (tmp_path/"checkout/settings.ini").touch()
    for folder, expected in (("checkout/nbs/deep", "checkout"), (".", ".")):
        assert Path(call("python", "-c", code, tmp_path/folder).stdout.strip()) == tmp_path/expected

def test_predict_on_everything(smoke, tmp_path):
    """A picture, a video, a folder with a broken file, a stream in place of a camera: one row each, a sheet of maps
    for each verdict, and the bad file named."""
    run = next((smoke/"runs").glob("*/result.json")).parent
    frames = smoke/"data/smoke"
    video = next(p for p in sorted((frames/"oulu_npu").rglob("*_1.avi")))
    (tmp_path/"in").mkdir()
    shutil.copy(video, tmp_path/"in/clip.avi")
    (tmp_path/"in/broken.png").write_bytes(b"no picture")
    from fas_nb.verdicts import video_frames
    from PIL import Image
    Image.fromarray(video_frames(video, 1)[0]).save(tmp_path/"in/photo.png")
    done = call("fas_predict", tmp_path/"in", video, "--model", run/"model.safetensors", "--threshold", "0",
                "--overlay", tmp_path/"out", "--json", "--frames", "2")
    rows = {Path(r["file"]).name: r for r in json.loads(done.stdout)}
    assert done.returncode == 1 and "Traceback" not in done.stderr and set(rows) == {"broken.png", "clip.avi",
                                                                                     "photo.png", video.name}
    assert "known format" in rows["broken.png"]["error"]
    assert rows["clip.avi"]["score"] == rows[video.name]["score"] and any("frames" in w
                                                                          for w in rows["clip.avi"]["warnings"])
    for r in rows.values():
        if "error" in r: continue
        assert r["label"] in ("attack", "bona_fide") and Path(r["overlay"]).stat().st_size > 5000 and any(
            "rendered" in w for w in r["warnings"])
    streamed = call("fas_predict", "--camera", video, "--model", run/"model.safetensors", "--threshold", "0",
                    "--frames", "1")
    assert streamed.returncode == 0 and "F_attack" in streamed.stdout, streamed.stderr
    absent = call("fas_predict", "--camera", "97", "--model", run/"model.safetensors", "--threshold", "0")
    assert absent.returncode == 2 and "gives no picture" in absent.stderr and len(
        absent.stderr.strip().splitlines()) == 1, absent.stderr
