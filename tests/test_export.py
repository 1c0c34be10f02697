"Exported files as a user makes and uses them: what they say, and the same verdict from every runtime."
import json

import numpy as np
import pytest
import torch
from conftest import call
from PIL import Image

@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    "An untrained detector with a threshold, and a portrait."
    from fas_nb.dccdn import DCCDN
    from fas_nb.detector import save_model
    from fas_nb.specs import MCREAOptions, ModelOptions, RunSpec, ScoringOptions, TrainingOptions
    from fas_nb.vocab import Fold
    from skimage.data import astronaut
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    model = DCCDN(width=4)
    spec = RunSpec(Fold("a", "b", "c", ("x",), (), ()), "full", ModelOptions(width=4), TrainingOptions(size=64),
                   MCREAOptions(), ScoringOptions(size=64), 0, "", "", "")
    save_model(model, folder/"model.safetensors", spec=spec, threshold=.125, origin="rendered", frame_size=96)
    Image.fromarray(astronaut()).save(folder/"portrait.png")
    return folder

def verdicts(weights, model, *more):
    done = call("fas_predict", weights/"portrait.png", *more, "--model", model, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)

@pytest.mark.parametrize("name", ["net.onnx", "net.xml"])
def test_export_says_what_it_is_and_predicts_the_same(weights, tmp_path, name):
    done = call("fas_export", weights/"model.safetensors", tmp_path/name)
    assert done.returncode == 0 and "largest difference" in done.stdout, done.stderr
    assert float(done.stdout.split()[-1]) <= 1e-5
    from fas_nb.runtimes import Exported
    about = Exported(tmp_path/name, threads=1).about
    assert (about["threshold"] == "0.125" and about["channels"] == "attack, living, background"
            and "higher = more like an attack" in about["polarity"])
    assert "127.5" in about["preprocessing"] and "rendered" in about["training_data"] and about["size"] == "64"
    ours, theirs = verdicts(weights, weights/"model.safetensors")[0], verdicts(weights, tmp_path/name)[0]
    assert ours["label"] == theirs["label"] and ours["threshold"] == theirs["threshold"] == .125
    assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
    assert any("rendered" in w for w in theirs["warnings"])

def test_many_pictures_take_the_fast_runtime(weights, monkeypatch):
    "And their scores are those of torch."
    from fas_nb import cli, detector, verdict_commands
    chosen, load = [], detector.load_model
    monkeypatch.setattr(detector, "load_model", lambda path, **how: (chosen.append(load(path, **how)), chosen[-1])[1])
    monkeypatch.setattr(verdict_commands, "MANY", 2)
    assert cli.fas_predict([str(weights/"portrait.png"), "--model", str(weights/"model.safetensors")]) == 0
    assert cli.fas_predict([str(weights/"portrait.png")]*2 + ["--model", str(weights/"model.safetensors")]) == 0
    assert not hasattr(chosen[0].model, "runtime") and chosen[1].model.runtime == "openvino"

@pytest.mark.parametrize("arguments, says",
                         [(("--size", "60"), "multiple of 8"), (("--images", "none.jpg"), "none.jpg")])
def test_mistakes(weights, tmp_path, arguments, says):
    done = call("fas_export", weights/"model.safetensors", tmp_path/"net.onnx", *arguments)
    assert done.returncode == 2 and says in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())

def test_only_weights_are_exported(tmp_path, capsys):
    from fas_nb import cli
    (tmp_path/"net.onnx").touch()
    assert cli.fas_export([str(tmp_path/"net.onnx"), str(
        tmp_path/"again.onnx")]) == 2 and "only weights can be exported" in capsys.readouterr().err

def test_broken_export_is_one_line(weights, tmp_path):
    (tmp_path/"net.onnx").write_bytes(b"no network")
    done = call("fas_predict", weights/"portrait.png", "--model", tmp_path/"net.onnx")
    assert done.returncode == 1 and "export it again" in done.stderr and len(
        done.stderr.strip().splitlines()) == 1, done.stderr

def test_other_numbers_of_pictures(weights, tmp_path):
    "Dynamic batch, through the command's own file."
    from fas_nb.decision import predict_maps
    from fas_nb.detector import load_model
    from fas_nb.runtimes import RUNTIMES, Exported
    assert call("fas_export", weights/"model.safetensors", tmp_path/"net.onnx").returncode == 0
    pictures = np.random.default_rng(0).integers(0, 255, (5, 64, 64, 3), np.uint8)
    expected = predict_maps(load_model(weights/"model.safetensors").model, pictures)
    for runtime in RUNTIMES:
        for n in (1, 3, 5):
            assert np.abs(predict_maps(Exported(tmp_path/"net.onnx", runtime, 1), pictures[:n])
                          - expected[:n]).max() <= 1e-5

def test_weights_stay_with_torch_where_onnx_is_missing(weights, monkeypatch):
    """A fast runtime alone cannot use weights: many pictures are judged by torch, and asking for the runtime says what
    to install."""
    import importlib.util
    from fas_nb import cli, detector, verdict_commands
    chosen, load, find = [], detector.load_model, importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnx" else find(name, *a))
    monkeypatch.setattr(detector, "load_model", lambda path, **how: (chosen.append(load(path, **how)), chosen[-1])[1])
    monkeypatch.setattr(verdict_commands, "MANY", 2)
    assert cli.fas_predict([str(weights/"portrait.png")]*2 + ["--model", str(weights/"model.safetensors")]) == 0
    assert isinstance(chosen[0].model, torch.nn.Module)
    with pytest.raises(detector.InputError, match=r"onnx not installed.*fas_nb\[fast\]"):
        load(weights/"model.safetensors", runtime="openvino")

def stranger(image, box, points, session):
    "A score from the exported file and what it says, with OpenCV and numpy: written from the recipe's words."
    import cv2
    about = session.get_modelmeta().custom_metadata_map
    told = json.loads(about["recipe"])
    crop, window, areas = told["crop"], told["window"], told["areas"]
    (x0, y0, x1, y1), (height, width) = map(float, box), image.shape[:2]
    side = round(crop["side_in_boxes"]*max(x1 - x0, y1 - y0))
    left, top = round((x0 + x1 - side)/2), round((y0 + y1 - side)/2)
    outside = max(0, -left, -top, left + side - width, top + side - height)
    padded = cv2.copyMakeBorder(image, *[outside]*4,
                                cv2.BORDER_REPLICATE)[top + outside:, left + outside:][:side, :side]
    face = cv2.resize(padded, (crop["size"],)*2,
                      interpolation=cv2.INTER_AREA if side > crop["size"] else cv2.INTER_LINEAR)
    at = window["start"] + (np.arange(window["size"]) + .5)*window["side"]/window["size"] - .5
    low, part = np.floor(at).astype(int), at - np.floor(at)
    def line(values, axis):
        def take(i): return np.take(values, i.clip(0, crop["size"] - 1), axis)
        share = part.reshape([-1 if k == axis else 1 for k in range(3)])
        return take(low)*(1 - share) + take(low + 1)*share
    pixels = np.rint(line(line(face.astype(float), 0), 1)).clip(0, 255)
    x = ((pixels - 127.5)/128).astype(np.float32).transpose(2, 0, 1)[None]
    maps = dict(zip(told["output"], session.run(None, {"image": x})[0][0]))
    p = ((points[:, :2] - (left, top))*crop["size"]/side - window["start"])*window["size"]/window["side"]
    column, row = np.meshgrid(*[np.arange(window["size"]) + .5]*2)
    oval = p[areas["A_face"]["polygon"]].astype(np.float32)
    a_face = np.array([[cv2.pointPolygonTest(oval, (float(c), float(r)), False) >= 0 for c, r in zip(*line)]
                       for line in zip(column, row)])
    a_key = np.zeros_like(a_face)
    for indices in areas["A_key"]["boxes"].values():
        middle, half = (p[indices].max(0) + p[indices].min(0))/2, (p[indices].max(0)
                                                                   - p[indices].min(0))/2*areas["A_key"]["factor"]
        a_key |= (abs(column - middle[0]) <= half[0]) & (abs(row - middle[1]) <= half[1])
    facts = dict(F_attack=maps["attack"][a_face].mean(), F_real=maps["living"][a_key].mean())
    return eval(told["score"]["score"], {}, facts), facts, face, ((points[:, :2] - (left, top))*crop["size"]/side)

@pytest.mark.parametrize("scale, shift", [(1, 0), (3, 0), (1, 200)])
def test_a_stranger_scores_from_the_file_alone(weights, tmp_path, scale, shift):
    """Metadata and ONNX file give the score of `fas_predict`, and so does the graph that scores; small and large
    faces, and one at the border."""
    import cv2
    import onnxruntime
    from fas_nb.detector import load_model
    from fas_nb.verdicts import predict
    from skimage.data import astronaut
    image = np.ascontiguousarray(cv2.resize(astronaut(), None, fx=scale, fy=scale)[:, shift:])
    assert call("fas_export", weights/"model.safetensors", tmp_path/"net.onnx").returncode == 0
    done = call("fas_export", weights/"model.safetensors", tmp_path/"score.onnx", "--score")
    assert done.returncode == 0 and float(done.stdout.split()[-1]) < 1e-3, done.stderr
    ours = predict(image, load_model(weights/"model.safetensors"))
    score, facts, face, points = stranger(image, ours.box, ours.points,
                                          onnxruntime.InferenceSession(tmp_path/"net.onnx"))
    assert abs(score - ours.score) < 1e-3 and abs(facts["F_attack"]
                                                  - ours.f_attack) < 1e-3 and abs(facts["F_real"] - ours.f_real) < 1e-3
    graph = onnxruntime.InferenceSession(tmp_path/"score.onnx")
    found = graph.run(["score", "f_attack", "f_real"],
                      dict(crop=face[None].astype(np.float32), points=points[None].astype(np.float32)))
    assert np.abs(np.ravel(found) - [ours.score, ours.f_attack, ours.f_real]).max() < 1e-3

def test_a_scoring_graph_is_not_mistaken_for_a_network(weights, tmp_path):
    assert call("fas_export", weights/"model.safetensors", tmp_path/"score.onnx", "--score").returncode == 0
    done = call("fas_predict", weights/"portrait.png", "--model", tmp_path/"score.onnx")
    assert done.returncode == 2 and "without --score" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    done = call("fas_export", weights/"model.safetensors", tmp_path/"score.xml", "--score")
    assert done.returncode == 2 and ".onnx only" in done.stderr
