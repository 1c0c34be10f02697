"One fault at a time: `fas_check` names the check and the file, and goes on to the others."
import json, os, shutil, sys, zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import trees
from conftest import call
from fas_nb.check import check_dataset
from fas_nb.findings import CHECKS, RULES
from fas_nb.layouts import LAYOUTS
from fas_nb.datasets import MARKER, UNFINISHED
from fas_nb.vocab import InputError

@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    "The tiny data sets, and WMCA in its other containers; to be copied, not changed."
    root = tmp_path_factory.mktemp("trees")
    for name, write in trees.TREES.items(): (root/name).mkdir(); write(root/name)
    for name, old in (("video", False), ("frames", True)):
        trees.wmca(root/f"crops_{name}/wmca", lambda path, seed, old=old: trees.crops(path, seed, frame_container=old))
    return root

def checked(root, name, deep=1, **kwargs): return check_dataset(name, root, deep, progress=False, **kwargs)
def ids(report, *severities):
    return {f.id for f in report.findings if f.severity in (severities or ("error", "warning"))}
def the(report, id, *severities):
    return next(f for f in report.findings if f.id == id and (not severities or f.severity in severities))

@pytest.mark.parametrize("name", trees.TREES)
def test_whole_trees_have_no_finding(whole, name):
    report = checked(whole/name, name, annotations=whole/"annotations" if name == "wmca" else None)
    assert report.ok and not ids(report), str(report)
    assert report.opened == report.presentations > 0

@pytest.mark.parametrize("container", ["video", "frames"])
def test_whole_face_crops_have_no_finding(whole, container):
    report = checked(whole/f"crops_{container}/wmca", "wmca", channels="rgb,depth")
    assert report.ok and not ids(report), str(report)
    assert f"face crops, {container.removesuffix('s')} container" in report.statement[0]

def edit(path, old, new): path.write_text(path.read_text().replace(old, new))
def append(path, line): path.write_text(path.read_text() + line + "\n")
def cut(path, share=.5): path.write_bytes(path.read_bytes()[:int(share*path.stat().st_size)])
def faces(root, change):
    path = root.parent/f"annotations/{W}.json"
    given = json.loads(path.read_text())
    for face in given.values(): change(face)
    path.write_text(json.dumps(given))
def swap(root, keys=("topleft", "bottomright")):
    def change(face): face[keys[0]], face[keys[1]] = face[keys[1]], face[keys[0]]
    faces(root, change)
def bgr(path):
    with h5py.File(path, "a") as file: file["data"][:] = file["data"][:][:, [2, 1, 0, 3]]
def depth_paths(root):
    head, *lines = (root/"table.csv").read_text().splitlines()
    trees.text(root/"table.csv", [f"{head},depth_path", *(f"{line},depth.npy" for line in lines)])
def turned(path):
    from PIL import Image
    tag = Image.Exif(); tag[0x0112] = 5
    Image.new("RGB", (16, 24), (180, 140, 120)).save(path, format="PNG", exif=tag)
def each(root, suffix, ask):
    for path in root.rglob(f"*{suffix}"): ask(path)

O, C, W = "Train_files/1_1_01_1", "train_release/2/HR_3", "face-station/17.01.18/001_01_000_0_00"
R = "devel/real/client005_session01_webcam_authenticate_adverse_1"
# glasses in train, prints in eval
G, P = "face-station/17.01.18/001_01_101_1_15", "face-station/17.01.18/005_01_105_3_01"
T = trees.FRAMES

FAULTS = [  # check, severity, data set, what is done, a path that is named, arguments
    ("V01", "error", "oulu_npu", lambda r: shutil.rmtree(r/"Dev_files"), "Dev_files", {}),
    ("V01", "error", "casia_fasd",
     lambda r: (r/"train_release").rename(r/"training") and (r/"test_release").rename(r/"testing"), None, {}),
    ("V02", "error", "oulu_npu", lambda r: (r/f"{O}.avi").unlink(), O, {}),
    ("V02", "error", "wmca", lambda r: (r/f"{W}.h5").unlink(), W, {}),
    ("V02", "error", "table", lambda r: (r/"files/dev0_replay.avi").unlink(), "files/dev0_replay.avi", {}),
    ("V02", "error", "table", lambda r: depth_paths(r), "depth.npy", dict(deep=0)),
    ("V15", "error", "table", lambda r: (depth_paths(r), np.save(r/"depth.npy", np.zeros((T, 24, 16), np.uint16))),
     "files/train0_bona_fide.avi", {}),
    ("V03", "error", "casia_fasd", lambda r: (r/f"{C}.avi").unlink(), None, {}),
    # a wrong list
    ("V03", "error", "oulu_npu",
     lambda r: shutil.copy(r/"Protocols/Protocol_4/Test_1.txt", r/"Protocols/Protocol_4/Test_2.txt"), None, {}),
    ("V03", "error", "casia_fasd", lambda r: (r/MARKER).write_text("{"), MARKER, {}),
    ("V03", "error", "msu_mfsd", lambda r: (r/"train_sub_list.txt").unlink(), None, {}),
    ("V03", "error", "wmca", lambda r: shutil.rmtree(r/"protocols"), None, {}),
    ("V04", "warning", "oulu_npu", lambda r: shutil.copy(r/f"{O}.avi", r/"Train_files/7_1_01_1.avi"),
     "Train_files/7_1_01_1.avi", {}),
    ("V04", "warning", "casia_fasd", lambda r: shutil.copy(r/f"{C}.avi", r/"train_release/2/é ü.avi"),
     "train_release/2/é ü.avi", {}),
    ("V04", "warning", "casia_fasd", lambda r: shutil.copy(r/f"{C}.avi", r/"train_release/2/１.avi"),
     "train_release/2/１.avi", {}),   # a digit, but no ASCII one
    ("V04", "note", "wmca", lambda r: shutil.copy(r/f"{W}.h5", r/"face-station/17.01.18/001_01_000_5_01.h5"),
     "face-station/17.01.18/001_01_000_5_01.h5", {}),   # makeup,
    ("V04", "note", "wmca", lambda r: shutil.copy(r/f"{W}.h5", r/"face-station/17.01.18/001_01_101_1_08.h5"),
     "face-station/17.01.18/001_01_101_1_08.h5", {}),   # a wig
    ("V04", "error", "wmca", lambda r: append(r/"protocols/PROTOCOL-grandtest.csv", "a,b"),
     "protocols/PROTOCOL-grandtest.csv line 31", {}),
    ("V04", "error", "oulu_npu", lambda r: (r/"Protocols/Protocol_1/Dev.txt").write_bytes(b"\xff\xfe\x00+"),
     "Protocols/Protocol_1/Dev.txt", {}),
    ("V04", "error", "msu_mfsd", lambda r: append(r/"train_sub_list.txt", "two"), "train_sub_list.txt", {}),
    ("V04", "error", "table", lambda r: append(r/"table.csv", "files/train0_replay.avi,spoof,x,train"),
     "table.csv line 14", {}),
    ("V04", "warning", "table", lambda r: append(r/"table.csv", ",prints,x,train"), "table.csv line 14", {}),
    ("F06", "warning", "table", lambda r: None, "files/train0_bona_fide.avi", dict(deep=1, finds=lambda picture: None)),
    ("V05", "error", "oulu_npu", lambda r: edit(r/"Protocols/Protocol_2/Train.txt", "+1,1_2_01_1", "-1,1_2_01_1"),
     "Protocols/Protocol_2/Train.txt line 4", {}),
    ("V05", "error", "wmca", lambda r: edit(r/"protocols/PROTOCOL-grandtest.csv", f"{G},1,attack/3D/glasses",
                                            f"{G},0,bonafide"), "protocols/PROTOCOL-grandtest.csv line 5", {}),
    ("V06", "error", "wmca",
     lambda r: append(r/"protocols/PROTOCOL-LOO_glasses.csv", f"{G},1,attack/3D/glasses,train"), G, {}),
    ("V07", "error", "wmca",
     lambda r: append(r/"protocols/PROTOCOL-LOO_glasses.csv", f"{P},1,attack/2D/prints,eval"), P, {}),
    ("V08", "error", "oulu_npu", lambda r: shutil.copy(r/f"{O}.avi", r/"Test_files/1_1_01_1.avi"),
     "Test_files/1_1_01_1.avi", {}),
    ("V08", "error", "wmca", lambda r: edit(r/"protocols/PROTOCOL-grandtest.csv", f"{W},0,bonafide,train",
                                            f"{W},0,bonafide,dev"), f"{W}.h5", {}),
    ("V08", "error", "table", lambda r: edit(r/"table.csv", "test1,test", "train0,test"),
     "files/test1_bona_fide.avi", {}),
    ("V08", "warning", "table", lambda r: edit(r/"table.csv", "species,subject", "species,person"), None, {}),
    ("V09", "warning", "wmca", lambda r: (shutil.rmtree(r), trees.wmca(r, presenter="100")), None, {}),
    ("V10", "error", "wmca", lambda r: shutil.copy(r/f"{W}.h5", r/f"{W}.hdf5"), f"{W}.hdf5", {}),
    ("V10", "error", "wmca", lambda r: append(r/"protocols/PROTOCOL-grandtest.csv", f"{W},0,bonafide,train"),
     f"protocols/PROTOCOL-grandtest.csv: {W}", {}),
    ("V11", "error", "oulu_npu", lambda r: (r/f"{O}.avi").write_bytes(b""), f"{O}.avi", {}),
    ("V11", "error", "oulu_npu", lambda r: (r/f"{O}.avi").write_bytes(b""), f"{O}.avi", dict(deep=0)),
    ("V11", "error", "casia_fasd", lambda r: (r/f"{C}.avi").write_text("no video"), f"{C}.avi", {}),
    ("V11", "error", "wmca", lambda r: cut(r/f"{W}.h5"), f"{W}.h5", {}),
    ("V11", "warning", "oulu_npu", lambda r: cut(r/f"{O}.avi", .7), f"{O}.avi", {}),
    ("V11", "error", "wmca", lambda r: trees.recording(r/f"{W}.h5", frames=0, depth=np.ones((3, 24, 16), np.uint16)),
     f"{W}.h5", {}),
    ("V12", "warning", "oulu_npu", lambda r: trees.video(r/f"{O}.avi", trees.pictures(1, 32, 18)), f"{O}.avi", {}),
    ("V12", "warning", "casia_fasd", lambda r: trees.video(r/f"{C}.avi", trees.pictures(1, 24, 16)), f"{C}.avi", {}),
    ("V13", "error",
     "wmca", lambda r: trees.recording(r/f"{W}.h5", depth_times="[" + ",".join(map(str, range(9000, 9000 + T))) + "]"),
     f"{W}.h5", {}),
    ("V13", "warning", "wmca",
     lambda r: trees.recording(r/f"{W}.h5", depth=np.arange(3*24*16, dtype=np.uint16).reshape(3, 24, 16) + 2000),
     f"{W}.h5", {}),
    ("V13", "warning", "wmca", lambda r: trees.recording(r/f"{W}.h5", markers=None), f"{W}.h5", {}),
    ("V14", "error", "wmca", lambda r: trees.recording(r/f"{W}.h5", times=[0]*T), f"{W}.h5", {}),
    ("V14", "error", "wmca", lambda r: trees.recording(r/f"{W}.h5", times="noon"), f"{W}.h5", {}),
    ("V15", "error", "wmca", lambda r: trees.recording(r/f"{W}.h5", depth=np.zeros((T, 24, 16), np.uint16)),
     f"{W}.h5", {}),
    ("V15", "warning", "wmca", lambda r: trees.recording(r/f"{W}.h5", depth=np.full((T, 24, 16), 9, np.uint16)),
     f"{W}.h5", {}),
    ("V15", "warning", "wmca", lambda r: trees.recording(r/f"{W}.h5", depth=(np.arange(T*24*16).reshape(T, 24, 16) % 4
                                                                             == 0).astype(np.uint16)*np.uint16(900)),
     f"{W}.h5", {}),
    ("V16", "error", "wmca",
     lambda r: trees.recording(r/f"{W}.h5", depth=(np.arange(T*24*16).reshape(T, 24, 16) % 200 + 1).astype(np.uint8)),
     f"{W}.h5", {}),
    ("V16", "error", "wmca", lambda r: trees.crops(r/f"{W}.h5"), None, dict(channels="rgb,depth")),
    ("V17", "error", "wmca", lambda r: trees.crops(r/f"{W}.h5"), f"{W}.h5", {}),
    ("V17", "error", "crops_video", lambda r: trees.crops(r/f"{W}.h5", planes=3), f"{W}.h5",
     dict(channels="rgb,depth")),
    ("V18", "warning", "crops_frames", lambda r: [h5py.File(r/f"{W}.h5", "a").pop(f"Frame_{i}") for i in (3, 10)],
     f"{W}.h5", dict(channels="rgb,depth")),
    *(("V18", "error", "crops_frames", lambda r, i=i: h5py.File(r/f"{W}.h5", "a").pop(f"Frame_{i}/array"), f"{W}.h5",
       dict(channels="rgb,depth")) for i in (0, 6)),
    ("V19", "error", "wmca", lambda r: swap(r, ("reye", "leye")), f"{W}.h5", {}),
    ("V19", "error", "wmca", lambda r: swap(r), f"{W}.h5", {}),
    # an empty box
    ("V19", "error", "wmca", lambda r: faces(r, lambda face: face.update(bottomright=face["topleft"])), f"{W}.h5", {}),
    ("V19", "error", "wmca", lambda r: faces(r, lambda face: face.update(bottomright=[400, 300])), f"{W}.h5", {}),
    ("V19", "error", "wmca", lambda r: (r.parent/f"annotations/{W}.json").write_text("{"), f"{W}.h5", {}),
    ("V19", "warning", "replay_attack",
     lambda r: trees.text(r/f"face-locations/{R}.face", [f"{k} 8 6 {0 if k == 7 else 16} 12" for k in range(40)]),
     f"{R}.mov", {}),
    ("V20", "warning", "oulu_npu", lambda r: edit(r/f"{O}.txt", "4,6,12,12,12", "4,0,0,0,0"), f"{O}.avi", {}),
    ("V20", "warning", "oulu_npu", lambda r: (r/f"{O}.txt").unlink(), f"{O}.avi", {}),
    ("V21", "note", "wmca", lambda r: (p := r/"protocols/PROTOCOL-grandtest.csv").write_bytes(
        b"\xef\xbb\xbf" + p.read_bytes().replace(b"\n", b" \r\n")), "protocols/PROTOCOL-grandtest.csv", {}),
    ("V22", "warning", "oulu_npu", lambda r: shutil.copytree(r/"Protocols/Protocol_1", r/"Protocols/Protocol_1_2"),
     "Protocols/Protocol_1_2", {}),
    ("V22", "error", "oulu_npu", lambda r: None, None, dict(protocol="1_2")),
    ("V23", "note", "replay_attack", lambda r: each(r, ".mov", lambda p: "real" in str(p) and trees.video(
        p, trees.pictures(zlib.crc32(str(p.relative_to(r)).encode()), 32, 24, 30))), None, {}),
    ("V24", "note", "replay_attack", lambda r: each(r, ".face", lambda p: "real" in str(p)
                                                    and trees.text(p, [f"{k} 2 2 28 20" for k in range(T)])), None, {}),
    # empty
    ("V20", "warning", "replay_attack", lambda r: (r/f"face-locations/{R}.face").write_text(""), f"{R}.mov", {}),
    # all zero
    ("V20", "warning", "replay_attack",
     lambda r: trees.text(r/f"face-locations/{R}.face", [f"{k} 0 0 0 0" for k in range(T)]), f"{R}.mov", {}),
    # counted from 1
    ("V20", "warning", "replay_attack",
     lambda r: trees.text(r/f"face-locations/{R}.face", [f"{k + 1} 8 6 16 12" for k in range(T)]), f"{R}.mov", {}),
    ("V20", "warning", "replay_attack",
     lambda r: trees.text(r/f"face-locations/{R}.face", [f"{k} nan 6 16 12" for k in range(T)]), f"{R}.mov", {}),
    ("V20", "warning", "oulu_npu", lambda r: edit(r/f"{O}.txt", "4,6,12,12,12\n", "4,6,12,12,12\n90,6,12,12,12\n"),
     f"{O}.avi", {}),   # beyond the end
    # contradicts
    ("V28", "error", "table", lambda r: append(r/"table.csv", "files/train0_replay.avi,prints,x,test"), None, {}),
    ("V28", "error", "table", lambda r: edit(r/"table.csv", "species", "label"), None, {}),
    ("V21", "note", "table", lambda r: edit(r/"table.csv", ",", ";"), "table.csv", {}),
    ("F05", "note", "table", lambda r: turned(r/"files/train0_bona_fide.avi"), "files/train0_bona_fide.avi", {}),
    ("V25", "error", "casia_fasd", lambda r: (r/MARKER).rename(r/UNFINISHED), UNFINISHED, {}),
    ("V25", "error", "casia_fasd", lambda r: None, None, dict(real=True)),
    ("V26", "error", "casia_fasd", shutil.rmtree, None, {}),
    ("V27", "error", "wmca", lambda r: None, None, dict(protocol="LOO_wig")),
    ("V27", "error", "wmca", lambda r: append(r/"protocols/PROTOCOL-grandtest.csv", f"{W},1,attack/3D/wig,train"),
     "protocols/PROTOCOL-grandtest.csv line 31", {}),
    ("F02", "warning", "casia_fasd", lambda r: ((r.parent/"x.avi").write_bytes((r/f"{C}.avi").read_bytes()),
                                                (r/f"{C}.avi").unlink(), (r/f"{C}.avi").symlink_to(r.parent/"x.avi")),
     f"{C}.avi", {}),
    ("F02", "warning", "casia_fasd", lambda r: ((r/f"{C}.avi").unlink(), (r/f"{C}.avi").symlink_to("nowhere.avi")),
     f"{C}.avi", {}),
    ("F03", "error", "casia_fasd", lambda r: shutil.copy(r/f"{C}.avi", r/"test_release/1/HR_3.avi"),
     "test_release/1/HR_3.avi", {}),
    ("F03", "error", "wmca", lambda r: shutil.copy(r/f"{W}.h5", r/f"{G}.h5"), f"{G}.h5", {}),
    ("F04", "warning", "oulu_npu", lambda r: trees.video(r/f"{O}.avi", trees.pictures(1, 18, 32)[..., ::-1]),
     f"{O}.avi", {}),   # red and blue exchanged
    ("F04", "warning", "wmca", lambda r: trees.recording(r/f"{W}.h5", color=(110, 130, 170)), f"{W}.h5", {}),
    ("F04", "warning", "crops_video", lambda r: bgr(r/f"{W}.h5"), f"{W}.h5", dict(channels="rgb,depth"))]

@pytest.mark.parametrize("id,severity,name,spoil,path,kwargs", FAULTS,
                         ids=[f"{f[0]}-{f[2]}-{i}" for i, f in enumerate(FAULTS)])
def test_fault_is_named(whole, tmp_path, id, severity, name, spoil, path, kwargs):
    dataset = "wmca" if name.startswith("crops") else name
    source = whole/name/"wmca" if name.startswith("crops") else whole/name
    root = tmp_path/dataset; shutil.copytree(source, root)
    if dataset == "wmca":
        shutil.copytree(source.parent/"annotations", tmp_path/"annotations")
        if not name.startswith("crops"): kwargs = dict(annotations=tmp_path/"annotations") | kwargs
    stray = (root/LAYOUTS[dataset].folders[0]/f"stray{LAYOUTS[dataset].extensions[0]}"
             if LAYOUTS[dataset].folders else None)
    spoil(root)
    if stray and stray.parent.is_dir(): stray.write_text("of another fault, which must be told as well")
    report = checked(root, dataset, **kwargs)
    finding = the(report, id, severity)
    if path: assert path in finding.paths, finding
    assert report.ok == (not ids(report, "error")) and (severity != "error" or not report.ok)
    if stray and stray.parent.is_dir() and report.origin:
        assert any(stray.name in p for f in report.findings if f.id == "V04" for p in f.paths), str(report)
    # what the same fault brings along
    follow = {"V01": {"V02", "V03"}, "V02": {"V03"}, "V04": {"V02", "V03"}, "V05": {"V03"},
              "V08": {"V03", "F03", "V02"}, "V10": {"F03"}, "V27": {"V02"}, "F02": {"V03"}}
    assert ids(report, "error") <= {id} | follow.get(id, set()), str(report)
    assert str(tmp_path) not in str(report) or id == "V26" or id == "V01", "paths are relative to the data set"
    assert json.loads(report.to_json())["findings"]

def test_every_check_is_tested_and_has_a_rule():
    tested = {f[0] for f in FAULTS} | {"F01"}     # F01 below
    assert tested == set(CHECKS)
    assert {id for id, *_ in RULES.values()} | {"V26", "F01"} >= set(CHECKS)

def test_unreadable_files_and_folders(whole, tmp_path, monkeypatch):
    shutil.copytree(whole/"casia_fasd", root := tmp_path/"casia_fasd")
    (root/f"{C}.avi").chmod(0); (root/"test_release/2").chmod(0)
    if os.geteuid() == 0:     # who may do everything is told that he may not
        real, scandir = os.access, os.scandir
        monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith(f"{C}.avi") and real(path, mode))
        def refuse(path):
            if str(path).endswith("test_release/2"): raise PermissionError(13, "Permission denied")
            return scandir(path)
        monkeypatch.setattr(os, "scandir", refuse)
    try: report = checked(root, "casia_fasd")
    finally: (root/"test_release/2").chmod(0o755)
    assert set(the(report, "F01").paths) == {"test_release/2", f"{C}.avi"}
    assert "V03" in ids(report)                     # and what lies in the folder is missing

def test_a_name_that_is_no_text(whole, tmp_path):
    shutil.copytree(whole/"casia_fasd", root := tmp_path/"casia_fasd")
    with open(os.fsencode(root/"train_release/1/") + b"/\xff\x1b[31m.avi", "wb") as file: file.write(b"x")
    report = checked(root, "casia_fasd")
    assert the(report, "V04").paths and "\x1b" not in str(report)
    str(report).encode(), report.to_json().encode()            # both can be printed
    done = call("fas_check", "casia_fasd", root, "--quiet")
    assert done.returncode == 0 and "V04" in done.stdout and "Traceback" not in done.stderr, done.stderr

def test_a_rule_that_breaks_does_not_stop_the_others(whole, monkeypatch):
    import fas_nb.findings as findings
    def broken(see): raise RuntimeError("a mistake of ours")
    monkeypatch.setattr(findings, "RULES", {("folder", "broken"): ("V09", "folder", (), broken)} | RULES)
    report = checked(whole/"casia_fasd", "casia_fasd", deep=0)
    assert "a mistake of ours" in the(report, "V09").found and the(report, "V25")

def release(root, name, suffix):
    for inside in LAYOUTS[name].release(()):
        path = root/f"{inside}{suffix}"; path.parent.mkdir(parents=True, exist_ok=True); path.write_bytes(b"x")

@pytest.mark.parametrize("name,suffix,n", [("oulu_npu", ".avi", 4950), ("casia_fasd", ".avi", 600)])
def test_whole_release_of_names_has_no_finding(tmp_path, name, suffix, n):
    release(tmp_path, name, suffix)
    report = checked(tmp_path, name, 0)
    assert (report.origin, report.presentations, ids(report)) == ("real", n, set()), str(report)
    lost = next(tmp_path.rglob(f"*{suffix}")); lost.unlink()
    report = checked(tmp_path, name, 0)
    assert the(report,
               "V02").paths == (str(lost.relative_to(tmp_path).with_suffix("")),) and ids(report,
                                                                                          "error") == {"V02", "V03"}

def test_one_protocol_of_a_release_needs_its_own_videos_only(tmp_path):
    release(tmp_path, "oulu_npu", ".avi")
    (tmp_path/"Train_files/1_3_01_1.avi").unlink()      # session 3 is in no training of protocol 1
    assert "V02" in ids(checked(tmp_path, "oulu_npu", 0)) and checked(tmp_path, "oulu_npu", 0, protocol="1").ok
    # the missing video trains in every fold but that of its phone
    counts = checked(tmp_path, "oulu_npu", 0, protocol="3").counts
    lost = [row for row in counts if row[2] != row[3]]
    assert [(split, n - found) for split, species, found, n in lost
            if species == "bona_fide"] == [(f"3_{phone} train", 1) for phone in range(2, 7)] and len(lost) == 10
    (tmp_path/"Train_files/1_2_01_1.avi").unlink()
    report = checked(tmp_path, "oulu_npu", 0, protocol="1")
    assert ids(report, "error") == {"V02", "V03"} and ("1 train", "bona_fide", 239, 240) in report.counts, str(report)
    with pytest.raises(InputError, match="use one of"): checked(tmp_path, "oulu_npu", 0, protocol="7")

def test_defects_of_a_release_are_known(tmp_path):
    path = tmp_path/"scene01/real/real_client003_android_SD_scene01.mp4"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    report = checked(tmp_path, "msu_mfsd", 0)
    assert the(report, "V12").paths == ("scene01/real/real_client003_android_SD_scene01.mp4",)

def test_a_rotation_tag_is_told(whole, tmp_path):
    "A portrait video lying on its side: with its tag nothing is wrong, without it the finding says that there is none."
    shutil.copytree(whole/"oulu_npu", root := tmp_path/"oulu_npu")
    (root/f"{O}.avi").unlink(); trees.video(root/f"{O}.mov", trees.pictures(1, 32, 18))
    assert the(checked(root, "oulu_npu"), "V12").found == "32 x 18, rotation tag 0 degrees"
    data, one = (root/f"{O}.mov").read_bytes(), 1 << 16
    at = data.index(b"tkhd") + 44                       # the matrix of the QuickTime format
    (root/f"{O}.mov").write_bytes(data[:at] + np.array((0, one, 0, -one, 0, 0, 18*one, 0, 1 << 30), ">i4").tobytes()
                                  + data[at + 36:])
    assert "V12" not in ids(checked(root, "oulu_npu"))

def test_command(whole, tmp_path):
    done = call("fas_check", "wmca", whole/"wmca", "--annotations", whole/"annotations", "--deep", "--quiet")
    assert done.returncode == 0, done.stdout
    assert ("container: raw recordings, 24 x 16" in done.stdout and "lists: grandtest" in done.stdout
            and "files of given faces: 30 of 30" in done.stdout and "GB" in done.stdout + "GB")
    done = call("fas_check", "wmca", whole/"crops_video/wmca", "--deep", "1", "--quiet", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 1 and not report["ok"] and "V17" in {f["id"] for f in report["findings"]}
    done = call("fas_check", "--deep", "wmca", whole/"wmca", "--quiet")
    assert done.returncode == 2 and "write --deep behind the folder" in done.stderr, done.stderr
    done = call("fas_check", "wmca", whole/"wmca", "--deep", ".05", "--protocol", "loo_glasses", "--quiet")
    assert (done.returncode == 0 and "LOO_glasses train" in done.stdout
            and "read more with --deep" in done.stdout), done.stdout
    for wrong in (("--deep", "7"), ("--channels", "rgb,d"), ("--protocols", "nowhere"), ("--protocol", "LOO_hats")):
        done = call("fas_check", "wmca", whole/"wmca", "--quiet", *wrong)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr

SINGLE = {"gone": (Path.unlink, "V03"), "empty": (lambda p: p.write_bytes(b""), "V11"),
          "cut": (lambda p: cut(p, .2), "V11"),
          "renamed": (lambda p: p.rename(p.with_name(f"copy of {p.name}")), "V04"),
          "linked": (lambda p: (p.unlink(), p.symlink_to("/nowhere.avi")), "F02")}

@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fault=st.sampled_from(sorted(SINGLE)), number=st.integers(0, 71))
def test_any_single_fault_of_any_file(whole, tmp_path_factory, fault, number):
    root = tmp_path_factory.mktemp("one")/"casia_fasd"; shutil.copytree(whole/"casia_fasd", root)
    path = sorted(root.rglob("*.avi"))[number]
    spoil, id = SINGLE[fault]; spoil(path)
    report = checked(root, "casia_fasd")
    assert id in ids(report) and (id == "V03" or path.stem in the(report, id).paths[0]), str(report)
    assert len(the(report, id).paths) <= 1                 # and no other file is accused

@pytest.mark.parametrize("name", ["a", "on", "data", "is", "the data set"])
def test_a_folder_named_like_a_word_leaves_words_alone(whole, tmp_path, monkeypatch, name):
    "Paths in messages are relative to the folder; what merely sounds like it stays as it is."
    shutil.copytree(whole/"table", tmp_path/name)
    edit(tmp_path/name/"table.csv", "bona_fide", "bonafida")
    monkeypatch.chdir(tmp_path)
    text = str(check_dataset("table", f"{name}/table.csv", progress=False))
    assert "species 'bonafida' is unknown; is bona_fide meant?" in text and str(tmp_path) not in text, text

def test_depth_that_does_not_fit_is_named_and_not_annotated(tmp_path):
    """Turned, in metres, near = bright, of 8 bits: named by the check and refused by the annotation, unless the table
    says how to read it."""
    from PIL import Image
    from skimage.data import astronaut
    from fas_nb.depth import depth_misfit, z_buffer
    from fas_nb.landmarks import detect_landmarks
    from fas_nb.annotation import fill_stores
    from fas_nb.store import AnnotationStore
    from fas_nb.datasets import open_dataset
    photo = astronaut()
    z = z_buffer(detect_landmarks(photo)[0].points, photo.shape[:2])
    mm = np.where(np.isfinite(z), 700 + 1.2*np.nan_to_num(z), 1000)
    ways = {"good": (mm.astype(np.uint16), ""), "three": (np.dstack([mm.astype(np.uint16)]*3), ""),
            "half": (mm[::2, ::2].astype(np.uint16), ""),
            "metres": (np.float32(mm/1000), ""), "metres_said": (np.float32(mm/1000), "1000,"),
            "turned": (np.rot90(mm).astype(np.uint16), ""),
            "bright": ((2000 - mm).astype(np.uint16), ""),
            "bright_said": ((2000 - mm).astype(np.uint16), "1,near_is_large"), "eight": ((mm/5).astype(np.uint8), "")}
    lines = ["path,species,subject,depth_path,depth_mm_per_unit,depth_polarity"]
    for name, (depth, said) in ways.items():
        Image.fromarray(photo).save(tmp_path/f"{name}.png"); np.save(tmp_path/f"{name}.npy", depth)
        lines.append(f"{name}.png,bona_fide,{name},{name}.npy,{said or ','}")
    (tmp_path/"table.csv").write_text("\n".join(lines))
    report = check_dataset("table", tmp_path, 1, progress=False, fits=depth_misfit)
    wrong = {p for f in report.findings if f.id == "V15" and f.severity == "error" for p in f.paths}
    assert wrong == {f"{n}.png" for n in ("metres", "turned", "bright", "eight")}, str(report)
    assert any(f.severity == "note" and f.paths == ("half.png",) and "256 x 256" in f.found for f in report.findings
               if f.id == "V15"), str(report)
    done = fill_stores(open_dataset("table", tmp_path), tmp_path/"out", 1, 96, "polygon", progress=False)
    assert {Path(path).name for path, _ in done.failures} == wrong
    rows = AnnotationStore(tmp_path/"out/annotations").manifest()
    assert set(rows.presentation) == {f"table/{n}.png" for n in ways} - {f"table/{n}" for n in wrong} and set(
        rows.depth_mode) == {"sensor"}
    maps = [AnnotationStore(tmp_path/"out/annotations").read(f"table/{n}.png", 0).depth
            for n in ("good", "three", "metres_said", "bright_said", "half")]
    for depth in maps[1:]: assert abs(depth - maps[0]).mean() < .03, "one face, one depth"
