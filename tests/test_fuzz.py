"""Mutated bytes and fields through every reader: a result or a named `InputError`, no other exception, no hang.

FAS_NB_FUZZ=N tries N inputs for each reader (20 where it is not set); how many is printed at the end (pytest -s).
"""
import faulthandler, json, os
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fas_nb.layouts import WMCA
from fas_nb.datasets import open_dataset
from fas_nb.recordings import read_box_lines, read_corner_lines, read_eye_lines, read_face_json, usable_face
from fas_nb.pictures import count_video_frames, look, read_image, video_frames
from fas_nb.tables import depth_maps, read_table
from fas_nb.vocab import InputError, Presentation

N = int(os.environ.get("FAS_NB_FUZZ", 20))
PATIENCE = 30    # seconds after which one input counts as a hang: the process ends with a trace
TRIED = Counter()
MANY = settings(max_examples=N, deadline=None, database=None, suppress_health_check=list(HealthCheck))
# where, what instead, how much of it is kept: bytes are overwritten, cut out, doubled, and the file is cut off
MUTATIONS = st.lists(st.tuples(st.sampled_from(["write", "cut", "double", "end"]), st.floats(0, 1, exclude_max=True),
                               st.binary(min_size=1, max_size=8)),
                     min_size=1, max_size=6)

def mutated(data, mutations):
    data = bytearray(data)
    for kind, place, new in mutations:
        at = int(place*len(data))
        if kind == "write": data[at:at + len(new)] = new
        elif kind == "cut": del data[at:at + len(new)]
        elif kind == "double": data[at:at] = data[at:at + 8*len(new)]
        elif len(data) > 60: del data[max(at, 30):]
    return bytes(data)

def tried(kind, read, *arguments):
    "Read, and let nothing but `InputError` pass, with a message that a person can use."
    TRIED[kind] += 1
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    try: return read(*arguments)
    except InputError as error: assert len(str(error)) > 10 and "\n" not in str(error).strip()[:-1], str(error)
    finally: faulthandler.cancel_dump_traceback_later()

@pytest.fixture(scope="module", autouse=True)
def told():
    yield
    print(f"\n{sum(TRIED.values())} inputs tried: {', '.join(f'{n} {kind}' for kind, n in sorted(TRIED.items()))}")

@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    "Whole files of every kind."
    import av
    folder = tmp_path_factory.mktemp("seeds")
    rng = np.random.default_rng(0)
    picture = Image.fromarray(np.kron(rng.integers(0, 256, (4, 6, 3), np.uint8), np.ones((4, 4, 1), np.uint8)))
    tag = Image.Exif(); tag[0x0112] = 5
    for name, how in (("a.jpg", dict(exif=tag)), ("a.png", dict(exif=tag)), ("a.webp", {}), ("a.tif", {}),
                      ("a.bmp", {}), ("a.avif", {}), ("a.jp2", {}),
                      ("a.gif", dict(save_all=True, append_images=[picture.rotate(180)]))):
        picture.save(folder/name, **how)
    Image.fromarray(rng.integers(0, 65536, (16, 24), np.uint16)).save(folder/"a16.png")
    for name, codec, fmt in (("a.avi", "mjpeg", "yuvj420p"), ("b.avi", "mpeg4", "yuv420p"),
                             ("a.mp4", "libx264", "yuv420p"), ("a.mkv", "libx264", "yuv420p"),
                             ("a.webm", "libvpx", "yuv420p"), ("a.mov", "png", "rgb24")):
        with av.open(str(folder/name), "w") as container:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = 32, 24, fmt
            for k in range(5):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((24, 32, 3), 40*k, np.uint8),
                                                                       format="rgb24")))
            container.mux(stream.encode())
    with h5py.File(folder/"raw.h5", "w") as file:
        for name, array in ((WMCA.color_stream, rng.integers(0, 256, (3, 12, 16, 3), np.uint8)),
                            (WMCA.depth_stream, rng.integers(0, 9000, (3, 6, 8)).astype(np.uint16))):
            file[name] = array
            file[name].attrs["timestamps"], file[name].attrs["markers"] = "[0, 33, 66]", "[1,1,5,1,5,5,1,5]"
    with h5py.File(folder/"crops.h5", "w") as file:
        file.create_dataset("data", data=rng.integers(0, 256, (3, 4, 8, 8), np.uint8), compression="gzip")
    return folder

def parts(folder, pattern): return {p.name: p.read_bytes() for p in sorted(folder.glob(pattern))}

def test_pictures(seeds, tmp_path):
    whole = parts(seeds, "a*.[jpwtbg]*g") | parts(seeds, "a.[wtbaj]*") | parts(seeds, "a.gif")
    whole = {n: d for n, d in whole.items()
             if n.split(".")[1] in ("jpg", "png", "webp", "tif", "bmp", "gif", "avif", "jp2")}
    assert len(whole) >= 8
    @MANY
    @given(name=st.sampled_from(sorted(whole)), mutations=MUTATIONS)
    def run(name, mutations):
        path = tmp_path/name; path.write_bytes(mutated(whole[name], mutations))
        image = tried("pictures", read_image, path)
        assert image is None or (image.dtype == np.uint8 and image.ndim == 3)
        tried("pictures", look, path)
    run()

def test_videos(seeds, tmp_path):
    whole = {n: d for pattern in ("*.avi", "*.mp4", "*.mkv", "*.webm", "*.mov")
             for n, d in parts(seeds, pattern).items()}
    @MANY
    @given(name=st.sampled_from(sorted(whole)), mutations=MUTATIONS)
    def run(name, mutations):
        path = tmp_path/name; path.write_bytes(mutated(whole[name], mutations))
        total = tried("videos", count_video_frames, path)
        if total: tried("videos", lambda: list(video_frames(path, range(total))))
        tried("videos", look, path)
    run()

def test_hdf5(seeds, tmp_path):
    whole = parts(seeds, "*.h5")
    @MANY
    @given(name=st.sampled_from(sorted(whole)), mutations=MUTATIONS)
    def run(name, mutations):
        path = tmp_path/name; path.write_bytes(mutated(whole[name], mutations))
        p, layout = Presentation("x", "wmca", "", "", "", "bona_fide", str(path),
                                 {"channels": "rgb,depth"} if name == "crops.h5" else {}), WMCA()
        total = tried("hdf5", layout.count, p)
        if not total: return
        tried("hdf5", lambda: list(layout.frames(p, [0, min(total, 3) - 1])))
        tried("hdf5", lambda: list(layout.depth(p, [0])))
    run()

TABLE = ("path,species,subject,split,depth_path,depth_mm_per_unit,depth_polarity\n"
         "a.png,bona_fide,007,train,d.png,0.5,\nb.png,prints,8,test,,,\n")
FIELDS = st.text(alphabet=st.characters(codec="utf-8"), max_size=12)

def test_tables(tmp_path):
    for name in "abd": Image.new("RGB", (4, 4)).save(tmp_path/f"{name}.png")
    import pandas as pd
    pd.DataFrame(dict(path=["a.png"], species=["bona_fide"])).to_parquet(tmp_path/"t.parquet")
    whole = {"csv": TABLE.encode(), "utf16": TABLE.encode("utf-16"), "parquet": (tmp_path/"t.parquet").read_bytes()}
    @MANY
    @given(name=st.sampled_from(sorted(whole)), mutations=MUTATIONS)
    def run(name, mutations):
        path = tmp_path/("m.parquet" if name == "parquet" else "m.csv")
        path.write_bytes(mutated(whole[name], mutations))
        tried("tables", open_dataset, "table", path)
    @MANY
    @given(rows=st.lists(st.lists(FIELDS, max_size=8), max_size=4),
           head=st.permutations(["path", "species", "subject", "split"]), mark=st.sampled_from(",;\t|"))
    def fields(rows, head, mark):
        path = tmp_path/"f.csv"; path.write_text("\n".join(mark.join(row) for row in [head, *rows]), encoding="utf-8")
        tried("tables", open_dataset, "table", path); tried("tables", read_table, path)
    run(); fields()

FACE = {"0": dict(topleft=[4, 6], bottomright=[14, 18], reye=[7, 9], leye=[8, 15], landmarks=[[6, 4]]*68)}
JUNK = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=4), x,
                                                                        max_size=3), max_leaves=6)

def test_face_files(tmp_path):
    readers = {read_face_json: json.dumps(FACE), read_eye_lines: "0,9,7,15,8\n1,0,0,0,0\n",
               read_box_lines: "0 6 4 12 10\n1 0 0 0 0\n", read_corner_lines: "0,6,4,18,14,15,8,9,7\n"}
    def check(read, path):
        for face in (tried("face files", read, path) or {}).values():
            assert usable_face(face, (24, 32)) in (True, False)
    @MANY
    @given(read=st.sampled_from(sorted(readers, key=lambda f: f.__name__)), mutations=MUTATIONS)
    def run(read, mutations):
        path = tmp_path/"face"; path.write_bytes(mutated(readers[read].encode(), mutations))
        check(read, path)
    @MANY
    @given(key=st.sampled_from(["topleft", "bottomright", "reye", "leye", "landmarks", None]), junk=JUNK)
    def fields(key, junk):
        path = tmp_path/"face.json"
        path.write_text(json.dumps(dict(FACE, **{"0": dict(FACE["0"], **{key: junk}) if key else junk})))
        check(read_face_json, path)
    @MANY
    @given(rows=st.lists(st.lists(st.one_of(st.integers(-2**70, 2**70), st.floats(), st.text(max_size=3)), min_size=3,
                                  max_size=9), max_size=3))
    def numbers(rows):
        path = tmp_path/"face.txt"
        path.write_text("\n".join(" ".join(map(str, row)) for row in rows), encoding="utf-8")
        for read in (read_eye_lines, read_box_lines, read_corner_lines): check(read, path)
    run(); fields(); numbers()

def test_depth_files(seeds, tmp_path):
    np.save(tmp_path/"d.npy", np.full((2, 16, 24), 700, np.uint16))
    whole = {"d.npy": (tmp_path/"d.npy").read_bytes(), "d.png": (seeds/"a16.png").read_bytes(),
             "d.tif": (seeds/"a.tif").read_bytes()}
    @MANY
    @given(name=st.sampled_from(sorted(whole)), mutations=MUTATIONS)
    def run(name, mutations):
        path = tmp_path/name; path.write_bytes(mutated(whole[name], mutations))
        found = tried("depth files", lambda: next(depth_maps(path, [0], (16, 24))))
        assert found is None or (found.shape == (16, 24) and np.isfinite(found).all())
    run()

def test_region_maps(seeds, tmp_path):
    from fas_nb.annotation import import_corrections
    from fas_nb.store import AnnotationStore
    store = AnnotationStore(tmp_path/"store", {})
    (tmp_path/"store/rows").mkdir(parents=True, exist_ok=True)
    (tmp_path/"store/rows/one.json").write_text('{"id": "one", "frames": {}}')
    (tmp_path/"in/one").mkdir(parents=True)
    Image.fromarray(np.zeros((16, 24), np.uint8)).save(tmp_path/"grey.png"); grey = (tmp_path/"grey.png").read_bytes()
    @MANY
    @given(mutations=MUTATIONS)
    def run(mutations):
        (tmp_path/"in/one/0.png").write_bytes(mutated(grey, mutations))
        summary = tried("region maps", import_corrections, store, tmp_path/"in")
        assert summary is None or summary.failures            # there is no such frame: each is refused by name
    run()

def test_weights(tmp_path):
    import torch
    from fas_nb.dccdn import DCCDN
    from fas_nb.detector import load_model, save_model
    from fas_nb.specs import MCREAOptions, ModelOptions, RunSpec, ScoringOptions, TrainingOptions
    from fas_nb.vocab import Fold
    torch.manual_seed(0)
    spec = RunSpec(Fold("a", "b", "c", ("x",), (), ()), "full", ModelOptions(width=4), TrainingOptions(size=64),
                   MCREAOptions(), ScoringOptions(size=64), 0, "", "", "")
    save_model(DCCDN(width=4), tmp_path/"whole.safetensors", spec=spec, threshold=.125, origin="rendered",
               frame_size=96)
    whole = (tmp_path/"whole.safetensors").read_bytes()
    size = int.from_bytes(whole[:8], "little")
    head, about = json.loads(whole[8:8 + size]), None
    about = head["__metadata__"]
    few = settings(MANY, max_examples=max(3, N//4))     # a network is built each time
    @few
    @given(mutations=MUTATIONS)
    def run(mutations):
        path = tmp_path/"m.safetensors"; path.write_bytes(mutated(whole[:8 + size], mutations) + whole[8 + size:])
        tried("weights", load_model, path)
    @few
    @given(key=st.sampled_from(sorted(about)), junk=st.one_of(FIELDS, JUNK.map(json.dumps)))
    def fields(key, junk):
        text = json.dumps(dict(head, __metadata__=dict(about, **{key: junk}))).encode()
        path = tmp_path/"f.safetensors"; path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + size:])
        tried("weights", load_model, path)
    run(); fields()

def test_onnx_metadata(tmp_path):
    onnx = pytest.importorskip("onnx")
    from fas_nb.dccdn import DCCDN
    from fas_nb.detector import Detector, describe, load_model
    from fas_nb.runtimes import to_onnx
    from fas_nb.specs import ScoringOptions
    model = DCCDN(width=4).eval()
    graph = onnx.load_from_string(
        to_onnx(model, 24, describe(Detector(model, "full", ScoringOptions(size=24), .1, "rendered", 36))))
    about = {p.key: p.value for p in graph.metadata_props}
    few = settings(MANY, max_examples=max(3, N//4))
    @few
    @given(key=st.sampled_from(["detector", "options", "network", "size"]),
           junk=st.one_of(FIELDS, JUNK.map(json.dumps)))
    def fields(key, junk):
        onnx.helper.set_model_props(graph, dict(about, **{key: junk}))
        (tmp_path/"m.onnx").write_bytes(graph.SerializeToString())
        tried("onnx metadata", lambda: load_model(tmp_path/"m.onnx", runtime="onnxruntime"))
    @few
    @given(mutations=MUTATIONS)
    def run(mutations):
        (tmp_path/"m.onnx").write_bytes(mutated(graph.SerializeToString(), mutations))
        tried("onnx metadata", lambda: load_model(tmp_path/"m.onnx", runtime="onnxruntime"))
    fields(); run()
