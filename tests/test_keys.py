"What a number follows from stands in its key: a changed input never leaves the old number, nor changes too much."
import json, os, re, shutil, subprocess, sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

def photographs(folder:Path, depth:bool=False) -> Path:
    """A table of photographs of one face in many shades, paler copies as prints; with a depth picture each where asked
    for."""
    import cv2
    from fas_nb.depth import fill_nearest, z_buffer
    from fas_nb.landmarks import detect_landmarks
    from skimage.data import astronaut
    rng, lines = np.random.default_rng(0), []
    folder.mkdir(parents=True)
    face = astronaut()[:300, 80:380]
    z = z_buffer(detect_landmarks(face)[0].points, face.shape[:2])
    distance = (500 + fill_nearest(z, np.isfinite(z), np.ones_like(z, bool))).astype(np.uint16)
    for split, people in (("train", 3), ("dev", 2), ("test", 2)):
        for who, (species, contrast) in ((f"{split}{i}", kind) for i in range(people)
                                         for kind in (("bona_fide", 1.), ("prints", .5))):
            name = f"{who}_{species}"
            image = np.clip((face - 128.)*contrast + 128 + rng.normal(0, 4, face.shape) + 6*int(who[-1]), 0,
                            255).astype(np.uint8)
            cv2.imwrite(str(folder/f"{name}.png"), image[..., ::-1])
            if depth: cv2.imwrite(str(folder/f"{name}_depth.png"), distance)
            lines.append(f"{name}.png,{species},{who},{split}" + (f",{name}_depth.png,1" if depth else ""))
    header = "path,species,subject,split" + (",depth_path,depth_mm_per_unit" if depth else "")
    (folder/"table.csv").write_text("\n".join([header, *lines]))
    return folder/"table.csv"

def fas_run(root:Path, capsys) -> dict:
    "What `fas_run` says, in this process."
    from fas_nb.cli import fas_run
    command = ["--protocol", "table/own", "--profile", "smoke", "--set", "training.steps=30", "--set",
               "segmenter=polygon", "--data-root", root/"data", "--root", root,
               "--workers", "1", "--quiet", "--json"]
    code = fas_run([*map(str, command)])
    said = capsys.readouterr()
    assert code == 0, said.out + said.err
    return json.loads(said.out)[0]

def networks(root:Path) -> dict:
    return {p.parent.name: p.stat().st_mtime_ns for p in (root/"runs/networks").glob("*/model.safetensors")}

def test_corrected_labels_correct_the_numbers_without_training(tmp_path, capsys):
    table = photographs(tmp_path/"data/table")
    first, trained = fas_run(tmp_path, capsys), networks(tmp_path)
    lines = table.read_text().splitlines()
    swap = {"bona_fide": "prints", "prints": "bona_fide"}
    swapped = [line if ",train" in line or i == 0
               else re.sub(r",(bona_fide|prints),", lambda m: f",{swap[m[1]]},", line) for i, line in enumerate(lines)]
    table.write_text("\n".join(swapped))
    second = fas_run(tmp_path, capsys)
    # scored again, not trained again
    assert second["key"] != first["key"] and networks(tmp_path) == trained and len(trained) == 1
    assert second["auc"]["test"] == pytest.approx(
        1 - first["auc"]["test"]) and second["auc"]["train"] == first["auc"]["train"]
    table.write_text("\n".join(lines))
    # and back: found
    assert fas_run(tmp_path, capsys)["key"] == first["key"]
    table.write_text("\n".join(line.replace(",test1,", ",test0,") for line in lines))
    # one person instead of two
    other = fas_run(tmp_path, capsys)
    assert other["key"] != first["key"] and other["identities"]["test"] == 1 and networks(tmp_path) == trained
    table.write_text("\n".join([lines[0], lines[1].replace("bona_fide,", "prints,"), *lines[2:]]))
    # what is learnt from trains again
    assert fas_run(tmp_path, capsys)["key"] != first["key"] and len(networks(tmp_path)) == 2

def annotate(root:Path, capsys) -> dict:
    "What `fas_annotate` says, in this process."
    from fas_nb.cli import fas_annotate
    fas_annotate([*map(str, command(root))])
    return json.loads(capsys.readouterr().out)

def command(root:Path) -> list:
    return ["table", root/"data/table/table.csv", "--out", root/"look", "--root", root, "--frames", "1", "--size", "96",
            "--segmenter", "polygon",
            "--quiet", "--workers", "1", "--json"]

def test_depth_files_count_row_by_row(tmp_path, capsys):
    from fas_nb.store import AnnotationStore
    table = photographs(tmp_path/"data/table")
    assert annotate(tmp_path, capsys)["annotated"] == 14
    shutil.rmtree(table.parent); photographs(table.parent, depth=True)
    # the recordings were written anew, and a depth column came
    told = annotate(tmp_path, capsys)
    assert told["annotated"] == 14 and told["made_again"]["depth file"] == 14, told
    modes = AnnotationStore(tmp_path/"look/annotations").manifest().depth_mode
    assert set(modes) == {"sensor"}
    assert annotate(tmp_path, capsys)["annotated"] == 0
    # one depth file is another: one presentation
    os.utime(table.parent/"dev0_prints_depth.png")
    told = annotate(tmp_path, capsys)
    assert (told["annotated"], told["already_there"], told["made_again"]) == (1, 13, {"depth file": 1}), told
    table.write_text(table.read_text().replace("test0_prints_depth.png,1", "test0_prints_depth.png,2"))
    told = annotate(tmp_path, capsys)                                               # and its unit
    assert (told["annotated"], told["made_again"]) == (1, {"depth unit": 1}), told

def changed(folder:Path, module:str, old:str, new:str) -> Path:
    "A copy of the package in which some text was replaced."
    shutil.copytree(ROOT/"fas_nb", package := folder/"fas_nb",
                    ignore=shutil.ignore_patterns("__pycache__", "heads.npz"))
    text = (path := package/f"{module}.py").read_text()
    assert old in text, old
    path.write_text(text.replace(old, new))
    return package

@pytest.mark.parametrize("module, old, new, others", [
    ("depth", "FLAT_BELOW_MM = 20", "FLAT_BELOW_MM = 25", {"maps"}),
    ("datasets", "(np.arange(n) + .5)*total/n", "(np.arange(n) + .4)*total/n", {"crops", "maps"}),
    ("vocab", "SKIN_ABOVE_OVAL = ", "SKIN_ABOVE_OVAL = 1.1*", {"maps"}),
    ("pages", "LEARNT = .75", "LEARNT = .7", set()),
    ("outlines", "def polygon_mask(", "UNUSED = 3\n\ndef polygon_mask(", set())])
def test_code_counts_where_it_is_used(tmp_path, module, old, new, others):
    from fas_nb.closure import closure_hash
    from fas_nb.annotation import _KEEPING, CROPS, MAPS
    package = changed(tmp_path.resolve(), module, old, new)
    assert {name for name, begins in (("crops", CROPS), ("maps", MAPS))
            if closure_hash(begins, _KEEPING, package) != closure_hash(begins, _KEEPING)} == others

def test_annotations_do_not_outlive_the_code_that_made_them(tmp_path, capsys):
    photographs(tmp_path/"data/table")
    assert annotate(tmp_path, capsys)["annotated"] == 14
    package = changed(tmp_path, "regions", "    look = \"glasses\" in _least",
                      "    raise RuntimeError('replaced')\n    look = \"glasses\" in _least")
    done = subprocess.run([sys.executable, "-c", "import sys; from fas_nb.cli import fas_annotate; "
                           "sys.exit(fas_annotate())", *map(str, command(tmp_path))],
                          capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(package.parent)}, cwd=tmp_path)
    told = json.loads(done.stdout)
    # not "14 already there"
    assert (told["annotated"], told["already_there"], len(told["failed"])) == (0, 0, 14), told

def test_verify_computes_keys_from_the_inputs_as_they_are_now(smoke, tmp_path):
    from fas_nb.reports import verify_keys
    shutil.copytree(smoke, tmp_path, dirs_exist_ok=True)
    reports = tmp_path/"reports/smoke"
    wrong, different, checked = verify_keys(reports, tmp_path/"runs")
    assert (wrong, different) == ([], []) and checked >= 8
    package = changed(tmp_path, "layouts", '{"p": "prints", "r": "replay"}', '{"p": "replay", "r": "replay"}')
    code = (f"from fas_nb.reports import verify_keys; import json; print(json.dumps(verify_keys({str(reports)!r}, "
            f"{str(tmp_path/'runs')!r})))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(package.parent)}, cwd=tmp_path)
    # a table of code that maps names to species
    lines = json.loads(done.stdout)[0]
    assert any("another run by now, because of" in line and "labels" in line for line in lines), lines
    os.utime(sorted((tmp_path/"data/smoke/oulu_npu/Dev_files").rglob("*.avi"))[0])
    assert any("would be annotated again, because of another recording" in line
               for line in verify_keys(reports, tmp_path/"runs")[0])
