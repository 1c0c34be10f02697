"The whole path at its smallest size, as a user runs it, and what must hold of its pages."
import csv, html, json, os, re, shlex, shutil, signal, subprocess, time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import skimage.data
from PIL import Image
from conftest import BIN, ROOT, call

def out(smoke): return smoke/"reports/smoke"
def finished(root): return {p.parent.name: p.stat().st_mtime_ns for p in (root/"runs").glob("*/result.json")}

def test_all_pages_are_there(smoke):
    names = {p.name for p in out(smoke).glob("*.html")}
    assert {"index.html", "real-data.html", *(f"table{t}.html" for t in range(1, 6)), "wmca-LOO_glasses.html",
            "oulu_npu-1.html", "casia_fasd-to_replay_attack.html"} <= names
    assert len(list((out(smoke)/"notebooks").glob("*.ipynb"))) == 8

def test_pages_hold_no_external_address(smoke):
    for page in out(smoke).glob("*.html"):
        text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page.read_text())
        assert not re.findall(r"https?://|src=[\"']//|@import", text), page.name

def test_links_lead_somewhere(smoke):
    for page in out(smoke).glob("*.html"):
        for href in re.findall(r'href="(?!data:)([^"]+)"', page.read_text()):
            name, _, anchor = href.partition("#")
            target = out(smoke)/(name or page.name)
            assert target.exists() and (not anchor or f'id="{anchor}"' in target.read_text()), f"{page.name}: {href}"

def test_rendered_numbers_cannot_be_mistaken(smoke):
    for t in range(1, 6):
        page = (out(smoke)/f"table{t}.html").read_text()
        assert "Rendered data." in page and "not comparable" in page and "difference" not in page
        rows = list(csv.DictReader((out(smoke)/f"table{t}.csv").open()))
        for row in rows:
            values = [v for k, v in row.items() if k not in ("block", "data_origin", "method") and v]
            assert row["data_origin"] == ("rendered" if row["block"] == "fas_nb" else "real")
            assert all(v.endswith(" syn")
                       for v in values) if row["block"] == "fas_nb" else not any("syn" in v for v in values)
        data = json.loads((out(smoke)/f"table{t}.json").read_text())
        assert data["comparable_with_paper"] is False and all(c["mark"] == "syn" for c in data["cells"])

def test_cells_that_were_not_run_say_why(smoke):
    cells = json.loads((out(smoke)/"table1.json").read_text())["cells"]
    by_column = {c["column"]: c for c in cells}
    assert by_column["glasses"]["value"] is not None
    assert by_column["replay"]["value"] is None and by_column["replay"]["reason"] == "not part of profile smoke"
    assert by_column["mean"]["value"] is None and "6 of 7" in by_column["mean"]["reason"]

@pytest.mark.long
def test_what_an_empty_cell_needs_fills_it(smoke, tmp_path):
    "The command that the page prints, run as it stands; a folder of this machine is not on the page."
    page = html.unescape((out(smoke)/"table3.html").read_text())
    assert str(smoke) not in page and str(smoke) not in (out(smoke)/"index.html").read_text()
    command = next(c for c in re.findall(r"fas_reproduce --tables 3 [^<]*--set [^<]*", page)
                   if c.strip().endswith("oulu_npu/2"))
    for folder in ("data", "runs", "reports"): shutil.copytree(smoke/folder, tmp_path/folder)
    assert "ROOT stands for the folder that was given." in page
    done = call(*shlex.split(command.replace("ROOT", str(tmp_path))), "--quiet", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    cells = {c["column"]: c for c in json.loads((out(tmp_path)/"table3.json").read_text())["cells"]}
    values = {k: c["value"] is not None for k, c in cells.items() if not k.endswith("std")}
    assert list(values.values()) == [True, True, False, False], values
    known = {key for t in range(1, 6) for key in json.loads((out(tmp_path)/f"table{t}.json").read_text())["runs"]}
    assert f"{len(known)} of {len(known)} runs finished" in (
        out(tmp_path)/"index.html").read_text(), "the index speaks of all tables, not of the last command's"
    before = json.loads((out(smoke)/"table3.json").read_text())["cells"][0]
    assert cells[before["column"]]["value"] == before["value"]                  # and what was there is found again

def test_acer_against_a_plain_loop(smoke):
    "From the scores of a finished run, by counting."
    key = next(k for k, what in json.loads((out(smoke)/"table3.json").read_text())["runs"].items() if "ours" in what)
    scores, result = pd.read_parquet(smoke/"runs"/key/"scores.parquet"), json.loads(
        (smoke/"runs"/key/"result.json").read_text())
    per_video = {}
    for row in scores[scores.split == "test"].itertuples():
        per_video.setdefault((row.presentation, row.species), []).append(row.score)
    threshold, wrong, all_ = result["presentation"]["threshold"], {}, {}
    for (_, species), values in per_video.items():
        called_attack = sum(values)/len(values) > threshold
        wrong[species] = wrong.get(species, 0) + (called_attack == (species == "bona_fide"))
        all_[species] = all_.get(species, 0) + 1
    rates = {s: wrong[s]/all_[s] for s in all_}
    by_hand = (rates.pop("bona_fide") + max(rates.values()))/2
    assert result["presentation"]["ACER"] == pytest.approx(by_hand)

def test_second_time_finds_everything(smoke, tmp_path):
    "Runs and pages that are as they would be made stay; a page that is lost is made again."
    shutil.copytree(smoke, tmp_path, dirs_exist_ok=True)
    (out(tmp_path)/"table3.html").unlink()
    def executed(): return {p.name: p.stat().st_mtime_ns for p in (out(tmp_path)/"notebooks").glob("*.ipynb")}
    before, notebooks = finished(tmp_path), executed()
    done = call("fas_reproduce", "--profile", "smoke", "--root", tmp_path, "--quiet", "--tables", "3", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert finished(tmp_path) == before
    assert {name for name, when in executed().items() if when != notebooks[name]} == {"table3.ipynb"}
    index = (out(tmp_path)/"index.html").read_text()
    assert all(f'href="table{t}.html"' in index
               for t in range(1, 6)), "one table made again leaves the others in the index"
    assert all(key in (out(tmp_path)/"ro-crate-metadata.json").read_text() for key in before), "and in the manifest"

def test_papermill_works_alone(smoke, tmp_path):
    shutil.copytree(smoke/"runs", tmp_path/"runs")
    done = subprocess.run([str(BIN/"papermill"), "nbs/reports/table3.ipynb", str(tmp_path/"out.ipynb"), "-p", "profile",
                           "smoke", "-p", "root", str(tmp_path),
                           "-p", "data_root", str(smoke/"data/smoke"), "--no-progress-bar"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {"table3.html", "index.html", "real-data.html",
            "ro-crate-metadata.json"} <= {p.name for p in out(tmp_path).iterdir()}
    assert 'href="table3.html"' in (out(tmp_path)/"index.html").read_text()

@pytest.mark.long
def test_a_kill_loses_only_the_run_in_progress(smoke, tmp_path):
    shutil.copytree(smoke/"data", tmp_path/"data")
    command = [str(BIN/"fas_reproduce"), "--profile", "smoke", "--root", str(tmp_path), "--quiet", "--tables", "4",
               "--set", "training.steps=20", "--workers", "1"]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    end = time.time() + 120
    while not finished(tmp_path) and time.time() < end and process.poll() is None: time.sleep(.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = finished(tmp_path)
    assert 1 <= len(before) < 5, "killed between the first and the last of five runs"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after = finished(tmp_path)
    assert len(after) == 5 and before.items() <= after.items()   # what was finished was not made again

def test_runs_keep_log_and_weights(smoke):
    "What training says while it goes reaches the folder of each run, and the network stands in a folder of its own."
    from fas_nb.detector import load_model
    for key in finished(smoke):
        log = [json.loads(line) for line in (smoke/"runs"/key/"log.jsonl").read_text().splitlines()]
        assert log[-1]["step"] == json.loads((smoke/"runs"/key/"spec.json").read_text())["training"]["steps"] and all(
            row["dev loss"] > 0 for row in log)
        assert load_model(smoke/"runs"/key/"model.safetensors").run == key
        told = json.loads((smoke/"runs"/key/"result.json").read_text())["provenance"]
        network = json.loads((smoke/"runs/networks"/told["network"]/"network.json").read_text())
        assert network["annotations"] == told["annotations"] and network["last"]["step"] == log[-1]["step"]
    assert not list((smoke/"runs/networks").glob("*.checkpoint"))

def test_firewall_labels_stay_on_the_training_side(smoke, tmp_path):
    "Dev and test presentations with species withheld, and no annotation at hand, give bit-equal scores."
    from fas_nb.datasets import open_dataset
    from fas_nb.decision import score_frames
    from fas_nb.detector import load_model
    from fas_nb.annotation import extract_frames
    from fas_nb.store import FrameStore
    from fas_nb.specs import ScoringOptions
    key = next(k for k, what in json.loads((out(smoke)/"table1.json").read_text())["runs"].items()
               if "LOO_glasses ours" in what)
    spec = json.loads((smoke/"runs"/key/"spec.json").read_text())
    scores = pd.read_parquet(smoke/"runs"/key/"scores.parquet")
    wanted = set(spec["fold"]["dev"] + spec["fold"]["test"])
    blind = [replace(p, species="", attrs={k: v for k, v in p.attrs.items() if k == "origin"})
             for p in open_dataset("wmca", smoke/"data/smoke/wmca") if p.id in wanted]
    assert len(blind) == len(wanted)
    extract_frames(blind, tmp_path/"frames", spec["scoring"]["frames"], 96, workers=1, progress=False)
    model = load_model(smoke/"runs"/key/"model.safetensors")
    store = FrameStore(tmp_path/"frames")
    for split in ("dev", "test"):   # in the same batches as the run, so that rounding is the same
        frames = store.read(spec["fold"][split])
        score = score_frames(model.model, frames, ScoringOptions(**spec["scoring"]), spec["scheme"])[2]
        known = scores[scores.split == split].set_index(["presentation", "frame"]).score
        assert np.array_equal(score, known.loc[list(zip(frames.presentation, frames.frame))].to_numpy())

def test_firewall_training_uses_the_automatic_annotation(smoke, tmp_path):
    "Rendered truth is for measuring: without it, the annotation of a data set is the same."
    from fas_nb.datasets import open_dataset
    from fas_nb.annotation import annotate_dataset, extract_frames
    from fas_nb.store import AnnotationStore, FrameStore
    for name in ("wmca", "wmca.truth"):
        if name == "wmca": shutil.copytree(smoke/"data/smoke"/name, tmp_path/name)
    found = [p for p in open_dataset("wmca", tmp_path/"wmca") if p.species in ("bona_fide", "prints", "rigidmask")
             and p.subject == "001"][:4]
    assert not (tmp_path/"wmca.truth").exists()
    extract_frames(found, tmp_path/"frames", 1, 96, workers=1, progress=False)
    annotate_dataset(found, FrameStore(tmp_path/"frames"), tmp_path/"annotations", workers=1, progress=False)
    folder = next((smoke/"runs/stores").glob("wmca-*"))
    frames = FrameStore(tmp_path/"frames").read([p.id for p in found])
    ours, theirs = AnnotationStore(tmp_path/"annotations").labels(frames), AnnotationStore(
        folder/"annotations").labels(frames)
    assert np.array_equal(ours.regions, theirs.regions) and np.array_equal(ours.depth, theirs.depth)

@pytest.mark.long
def test_shipped_networks_are_scored_and_say_so(smoke, tmp_path):
    "Networks and faces that travel take the place of training; a table, the index and a page of live work say so."
    from fas_nb.ablations import ship_runs
    from fas_nb.sessions import asked_runs, open_session
    from fas_nb.profiles import get_profile
    shipped, there = tmp_path/"shipped", tmp_path/"there"
    own = open_session("smoke", asked_runs((2,), get_profile("smoke")), root=str(smoke), make=False)
    told = ship_runs(own, shipped)
    assert told["networks"] == 1 and {p.name for p in shipped.iterdir()} >= {"manifest.json", "faces",
                                                                             "detector.safetensors"}
    how = dict(cwd=tmp_path, env=os.environ | {"FAS_NB_SHIPPED": str(shipped)})
    command = ("fas_reproduce", "--tables", "2", "--profile", "smoke", "--set", "shipped=true", "--root", there,
               "--quiet")
    done = call(*command, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {p.name: p.read_text() for p in (there/"reports/smoke").glob("*.html")}
    said = "shipped with the package; the pictures that travel with them were annotated and scored here"
    assert said in pages["table2.html"] and said in pages["index.html"] and "trained here" in pages["live.html"]
    assert not any(str(p) in text for p in (there, shipped) for text in pages.values())
    made = {p.parent.name for p in (there/"runs").glob("*/result.json")}
    assert call(*command, **how).returncode == 0                                 # a second time finds everything
    assert {p.parent.name for p in (there/"runs").glob("*/result.json")} == made
    refused = call(*command[:2], "1", *command[3:], **how)                       # nothing is shipped for Table 1
    assert refused.returncode == 2 and "--train" in refused.stderr, refused.stderr
    Image.fromarray(skimage.data.astronaut()).save(tmp_path/"photo.png")
    verdict = call("fas_predict", "photo.png", **how)                            # the detector that travels
    assert verdict.returncode == 0 and "trained on rendered faces" in verdict.stderr, verdict.stderr
