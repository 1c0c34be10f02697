"Names, trees, tables and face files read back to what was written; frames come without memory growing with the video."
import json, re, sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import trees
from conftest import ROOT, call
from fas_nb.datasets import given_faces, open_dataset, read_depth, read_frame, read_frames, scan_dataset
from fas_nb.layouts import LAYOUTS, presentation_of
from fas_nb.recordings import WMCA_INSTRUMENTS
from fas_nb.store import FrameStore
from fas_nb.synthetic import RENDER_PROFILES, render_plan
from fas_nb.vocab import InputError, Presentation, Species

NAMED = [name for name in LAYOUTS if name != "table"]
SOME = settings(max_examples=60, deadline=None)
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

def name_of(p):
    """The path that a data set's own naming gives to a record: written from the records, the other way round than the
    readers."""
    a = p.attrs
    if p.dataset == "oulu_npu": return f"{a['split'].title()}_files/{a['phone']}_{p.session}_{p.subject}_{a['file']}"
    if p.dataset == "casia_fasd":
        return f"{a['split']}_release/{int(p.subject) - 20*(a['split'] == 'test')}/{a['stem']}"
    if p.dataset == "wmca":
        kind, pai = a["instrument"].split("_")
        return f"face-station/{a['date']}/{p.subject}_{p.session}_{a['presenter']}_{kind}_{pai}"
    if p.dataset == "msu_mfsd":
        kind, tail = ("real", "") if p.species == "bona_fide" else ("attack", f"_{a['instrument']}")
        return f"scene01/{kind}/{kind}_client{p.subject}_{p.device}_SD{tail}_scene01"
    folder, who = {"dev": "devel"}.get(a["split"], a["split"]), f"client{p.subject}_session{p.session}"
    if p.species == "bona_fide": return f"{folder}/real/{who}_webcam_authenticate_{a['light']}_{a['take']}"
    return f"{folder}/attack/{a['support']}/attack_{a['instrument'].split('_')[0]}_{who}_{a['sample']}_{a['light']}"

def names(dataset): return st.from_regex(LAYOUTS[dataset].grammar, fullmatch=True)

def record(dataset, inside):
    try: return presentation_of(dataset, inside)
    except ValueError: return None      # the grammar holds, the release has no such instrument

def readable(dataset): return names(dataset).filter(lambda inside: record(dataset, inside))
def canonical(dataset, inside): return inside if dataset != "casia_fasd" else re.sub(r"/0(\d)/", r"/\1/", inside)

@pytest.mark.parametrize("dataset", NAMED)
def test_every_name_of_the_grammar_round_trips(dataset):
    pattern = readable(dataset) if dataset != "wmca" else st.builds(
        lambda day, client, session, presenter,
        kind: f"face-station/{day:02}.01.18/{client:03}_{session:02}_{presenter:03}_{kind[0]}_{kind[1]:02}",
        st.integers(1, 31), st.integers(0, 999), st.integers(1, 7), st.integers(0, 999),
        st.sampled_from([(k, pai) for table in WMCA_INSTRUMENTS.values() for k, pais in table.items() for pai in pais]))
    @SOME
    @given(inside=pattern)
    def check(inside):
        p = presentation_of(dataset, inside)
        assert name_of(p) == canonical(dataset, inside) and p.id == f"{dataset}/{inside}" and p.species in set(
            Species) and inside.isascii()
    check()

@pytest.mark.parametrize("dataset", NAMED)
def test_a_name_with_one_character_changed_is_another_record_or_none(dataset):
    base = next(iter(LAYOUTS[dataset].release(()))) if dataset in ("oulu_npu", "casia_fasd", "msu_mfsd") else {
        "wmca": "face-station/17.01.18/002_01_003_2_81",
        "replay_attack": "devel/attack/hand/attack_mobile_client005_session01_mobile_photo_adverse"}[dataset]
    @SOME
    @given(at=st.integers(0, len(base) - 1), new=st.characters(min_codepoint=32, max_codepoint=0x2100))
    def check(at, new):
        assume(new != base[at] and new != "/")
        p = record(dataset, base[:at] + new + base[at + 1:])
        assert p is None or name_of(p) == base[:at] + new + base[at + 1:]
    check()

@pytest.mark.parametrize("dataset", ["oulu_npu", "casia_fasd", "replay_attack", "wmca"])
def test_any_tree_of_the_layout_writer_reads_back(dataset, tmp_path_factory):
    plan = [item for item in render_plan(dataset, RENDER_PROFILES["demo"]) if not item.path.startswith("enroll/")]
    own = {"devel": "dev", "eval": "test"}
    @FEW
    @given(chosen=st.sets(st.sampled_from(range(len(plan))), min_size=1, max_size=30), stray=st.booleans())
    def check(chosen, stray):
        root = tmp_path_factory.mktemp("tree")/dataset
        items = [plan[i] for i in sorted(chosen)]
        for item in items:
            path = root/item.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x"*(1 + len(item.path)))
        if stray:
            (root/LAYOUTS[dataset].folders[0]).mkdir(parents=True, exist_ok=True)
            (root/LAYOUTS[dataset].folders[0]/f"x{LAYOUTS[dataset].extensions[0]}").touch()
        scan = scan_dataset(dataset, root)
        found = {p.id: p for p in scan.presentations}
        assert len(found) == len(items) and len(scan.strangers) == stray
        for item in items:
            p = found[f"{dataset}/{Path(item.path).with_suffix('')}"]
            assert (str(p.species), p.path, scan.sizes[p.id]) == (str(item.species), str(root/item.path),
                                                                  1 + len(item.path))
            assert "split" not in p.attrs or p.attrs["split"] == own.get(item.split.lower(), item.split.lower())
            # subject, session and device are in the name
            assert name_of(p) == str(Path(item.path).with_suffix(""))
            # which device says what is upright
            if size := LAYOUTS[dataset].size(p): assert (size[0] > size[1]) == (item.size[0] > item.size[1])
        records = [(found[f"{dataset}/{Path(item.path).with_suffix('')}"], item) for item in items]
        assert len({(p.subject, item.subject) for p, item in records}) == len({p.subject for p, _ in records}) == len(
            {item.subject for _, item in records})
        if dataset == "oulu_npu":
            assert len({(p.device, item.camera) for p, item in records}) == len({p.device for p, _ in records})
    check()

WORDS = st.text(st.characters(categories=["L", "Nd", "Zs"], include_characters="-_'\",;"), min_size=1,
                max_size=12).map(str.strip).filter(bool)

@FEW
@given(rows=st.lists(st.tuples(WORDS, st.sampled_from(sorted(Species)),
                               WORDS, st.sampled_from(["train", "dev", "test"])), min_size=1, max_size=8,
                     unique_by=lambda r: r[0]),
       kind=st.sampled_from(["csv", "parquet"]))
def test_any_table_reads_back(tmp_path_factory, rows, kind):
    root = tmp_path_factory.mktemp("table")
    for i, _ in enumerate(rows): (root/f"{i}.png").write_bytes(b"x")
    table = pd.DataFrame([dict(path=f"{i}.png", species=str(s), subject=who, split=split)
                          for i, (who, s, _, split) in enumerate(rows)])
    table.to_csv(root/"table.csv", index=False) if kind == "csv" else table.to_parquet(root/"table.parquet")
    found = {p.id: (p.subject, p.species, p.attrs["split"]) for p in open_dataset("table", root)}
    assert found == {f"table/{i}.png": (who.strip(), s, split) for i, (who, s, _, split) in enumerate(rows)}

@pytest.mark.parametrize("name", ["oulu_npu", "replay_attack", "msu_mfsd", "wmca"])
def test_face_files_of_the_trees_read_back(name, tmp_path):
    trees.TREES[name](tmp_path/name)
    p = open_dataset(name, tmp_path/name)[0]
    faces = given_faces(p, tmp_path/"annotations" if name == "wmca" else None)
    assert set(range(trees.FRAMES)) - set(faces) == {"replay_attack": {3}, "wmca": {5}}.get(name, set())
    box = {"replay_attack": [8, 6, 24, 18], "msu_mfsd": [6, 4, 18, 12], "wmca": [4, 6, 12, 18]}.get(name)
    assert (faces[0].box is None) if box is None else (faces[0].box == box).all()
    # the subject's right eye is on the left of an unmirrored picture
    if faces[0].eyes is not None: assert faces[0].eyes[0, 0] < faces[0].eyes[1, 0]

def test_a_frame_container_with_a_gap_keeps_its_order(tmp_path):
    root = tmp_path/"wmca"
    trees.crops(root/"face-station/17.01.18/001_01_000_0_00.h5", frame_container=True, frames=12)
    with h5py.File(root/"face-station/17.01.18/001_01_000_0_00.h5", "a") as file:
        for i in range(12): file[f"Frame_{i}/array"][:3] = 20*i
        del file["Frame_5"]
    p = open_dataset("wmca", root, "rgb,depth")[0]
    assert [int(f[0, 0, 0]) for f in read_frames(p)] == [20*i for i in range(12) if i != 5]
    assert read_frame(p, 10)[0, 0, 0] == 220 and read_depth(p, 2).shape == (2, 16, 16)
    with pytest.raises(InputError, match="name the channels"): read_frames(open_dataset("wmca", root)[0])

def test_memory_does_not_grow_with_the_video(tmp_path):
    "Ten times as many frames of noise, which cannot be compressed: the packets alone are some 80 MB."
    noise = np.random.default_rng(0).integers(0, 256, (20, 480, 640, 3), dtype=np.uint8)
    trees.video(tmp_path/"short.avi", noise); trees.video(tmp_path/"long.avi", np.concatenate([noise]*10))
    code = ("import resource, sys; from fas_nb.datasets import iter_frames; from fas_nb.vocab import Presentation\n"
            "n = sum(1 for _ in iter_frames(Presentation('x', '', '', '', '', '', sys.argv[1]), "
            "int(sys.argv[2]) or None))\n" "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)")
    def peak(name, n): return [int(v) for v in call("python", "-c", code, tmp_path/name, n).stdout.split()]
    assert (tmp_path/"long.avi").stat().st_size > 60e6
    for n in (0, 10):
        (_, short), (frames, long) = peak("short.avi", n), peak("long.avi", n)
        assert frames == (n or 200) and long - short < 25_000, f"{short} kB, then {long} kB"

@pytest.mark.parametrize("kind", ["grey", "palette", "alpha", "grey16", "exif"])
def test_kinds_of_pictures(tmp_path, kind):
    from PIL import Image
    rgb = np.zeros((16, 24, 3), np.uint8); rgb[:, :12] = (200, 40, 40)
    image, path = Image.fromarray(rgb), tmp_path/"a.png"
    if kind == "exif":
        exif = image.getexif(); exif[274] = 6; path = tmp_path/"a.jpg"; image.save(path, exif=exif, quality=95)
    elif kind == "grey16": Image.fromarray((rgb[..., 0].astype(np.uint16)*257)).save(path)
    else: {"grey": image.convert("L"), "palette": image.convert("P"), "alpha": image.convert("RGBA")}[kind].save(path)
    frame = read_frames(Presentation("a", "", "", "", "", "", str(path)))[0]
    assert frame.dtype == np.uint8 and frame.shape == ((24, 16, 3) if kind == "exif" else (16, 24, 3))
    bright, dark = (frame[2, 8], frame[20, 8]) if kind == "exif" else (frame[8, 2], frame[8, 20])
    assert bright[0] > 60 and dark.max() < 30
    if kind in ("palette", "alpha", "exif"): assert bright[0] > bright[2] + 100      # red, and not blue

def test_a_table_is_checked_annotated_trained_and_tested(tmp_path):
    "The commands on files of one's own: a photograph in many shades, and paler copies of it as prints."
    import cv2
    from skimage.data import astronaut
    rng, folder, lines = np.random.default_rng(0), tmp_path/"data/table", ["path,species,subject,split"]
    folder.mkdir(parents=True)
    face = astronaut()[:300, 80:380]
    for split, people in (("train", 3), ("dev", 2), ("test", 2)):
        for i in range(people):
            for species, contrast in (("bona_fide", 1.), ("prints", .5)):
                name = f"{split}{i}_{species}.png"
                image = np.clip((face - 128.)*contrast + 128 + rng.normal(0, 4, face.shape) + 6*i, 0,
                                255).astype(np.uint8)
                cv2.imwrite(str(folder/name), image[..., ::-1]); lines.append(f"{name},{species},{split}{i},{split}")
    (folder/"table.csv").write_text("\n".join(lines))
    done = call("fas_check", "table", folder/"table.csv", "--deep", "1", "--quiet")
    assert done.returncode == 0 and "train  bona_fide" in done.stdout, done.stdout + done.stderr
    done = call("fas_annotate", "table", folder/"table.csv", "--profile", "smoke", "--segmenter", "polygon", "--root",
                tmp_path, "--workers", "1", "--quiet")
    assert done.returncode == 0 and "14 presentations: 14 annotated" in done.stdout, done.stdout + done.stderr
    stamps = {f: f.stat().st_mtime_ns for f in (tmp_path/"runs/stores").rglob("*.*")}
    done = call("fas_run", "--protocol", "table/own", "--profile", "smoke", "--set", "training.steps=4", "--set",
                "segmenter=polygon", "--data-root", tmp_path/"data",
                "--root", tmp_path, "--workers", "1", "--quiet", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"origin": "real"' in done.stdout and "table/own" in done.stdout
    # what was annotated is found, and nothing is done twice
    assert {f: f.stat().st_mtime_ns for f in (tmp_path/"runs/stores").rglob("*.*")} == stamps

@pytest.mark.long
def test_three_commands_lead_from_unpacking_to_annotation_and_on_to_a_run(tmp_path):
    """The commands that the notebook shows, on a small WMCA whose lists and face files lie apart; the run finds what
    they made."""
    page = json.loads((ROOT/"nbs/55_check.ipynb").read_text())["cells"]
    shown = next(block.split("\n") for c in page
                 for block in re.findall(r"```\n(fas_check wmca.*?)\n```", "".join(c["source"]), re.DOTALL))
    check, deep, annotate = [line.split("#")[0].split() for line in shown]
    assert (check[0], deep[-1], annotate[0]) == ("fas_check", "--deep", "fas_annotate")
    trees.wmca(tmp_path/"data/wmca")
    (tmp_path/"data/annotations").rename(tmp_path/"annotations")
    (tmp_path/"data/wmca/protocols").rename(tmp_path/"lists")
    small, here = ("--segmenter", "polygon", "--frames", "1", "--size", "96", "--workers", "1",
                   "--quiet"), dict(cwd=tmp_path)
    for command, said in ((check, "lists: grandtest"), (deep, "5 of them read"),
                          ([*annotate, "--root", ".", *small], "30 presentations: 30 annotated")):
        done = call(*command, *(["--quiet"] if command[0] == "fas_check" else []), **here)
        assert done.returncode == 0 and said in done.stdout, done.stdout + done.stderr
    store, = (tmp_path/"runs/stores").iterdir()
    boxes = FrameStore(store/"frames").boxes("wmca/face-station/17.01.18/001_01_000_0_00")
    # a plain colour, in which nobody is detected: the given face is cropped
    assert boxes.tolist() == [[4, 6, 12, 18]]

    stamps = {f: f.stat().st_mtime_ns for f in store.rglob("*.*")}
    run = ("fas_run", "--protocol", "wmca/LOO_glasses", "--profile", "smoke", "--set", "segmenter=polygon", "--set",
           "training.steps=4", "--data-root", "data",
           "--root", ".", "--annotations", "annotations", "--protocols", "lists", "--workers", "1", "--quiet", "--json")
    done = call(*run, **here)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {f: f.stat().st_mtime_ns
            for f in store.rglob("*.*")} == stamps and [*(tmp_path/"runs/stores").iterdir()] == [store]
    whole, = json.loads(done.stdout)
    lost = tmp_path/"data/wmca/face-station/17.01.18/001_01_000_0_00.h5"; lost.unlink()
    done = call(*run, **here)
    assert done.returncode == 1 and lost.stem in done.stderr and "--partial" in done.stderr and len(
        done.stderr.splitlines()) == 1, done.stderr
    done = call(*run, "--partial", **here)
    part, = json.loads(done.stdout)
    assert (done.returncode == 0 and part["key"] != whole["key"]
            and part["presentations"]["train"] == whole["presentations"]["train"] - 1), done.stderr
    # neither lists nor given faces: the lists are nowhere, and that is said
    done = call(*run[:-6], "--quiet", **here)
    assert done.returncode == 1 and "PROTOCOL-grandtest.csv" in done.stderr, done.stderr
    done = call(*annotate[:3], "--annotations", "lists", "--root", ".", *small, **here)
    assert done.returncode == 2 and "holds no file of given faces" in done.stderr, done.stderr

def test_face_crops_of_wmca_are_annotated_with_their_depth(tmp_path):
    """The channels reach the workers that decode, though these do not learn what was presented; the depth plane
    becomes the depth map."""
    import cv2
    from skimage.data import astronaut
    path = tmp_path/"wmca/face-station/17.01.18/001_01_000_0_00.h5"; path.parent.mkdir(parents=True)
    face = cv2.resize(astronaut()[:300, 80:380], (128, 128), interpolation=cv2.INTER_AREA)
    depth = np.tile(np.linspace(60, 200, 128).astype(np.uint8), (128, 1))
    with h5py.File(path, "w") as file:
        file["data"] = np.stack([np.concatenate([face, depth[..., None]], -1).transpose(2, 0, 1)]*2)
    command = ("fas_annotate", "wmca", tmp_path/"wmca", "--frames", "1", "--size", "96", "--workers", "1", "--quiet",
               "--out", tmp_path/"out")
    done = call(*command)
    assert done.returncode == 1 and "name the channels" in done.stdout + done.stderr
    done = call(*command, "--channels", "rgb,depth")
    assert done.returncode == 0 and "1 annotated" in done.stdout, done.stdout + done.stderr
    manifest = pd.read_parquet(tmp_path/"out/annotations/manifest.parquet")
    assert list(manifest.depth_mode) == ["sensor"] and list(manifest.species) == ["bona_fide"], manifest.T
