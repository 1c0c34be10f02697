"What holds for every method: sizes, polarity, gradients, weights on disk, interrupted training, and what it may read."
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ROOT, call
from fas_nb.ablations import VARIANTS, code_hashes, get_profile, make_spec
from fas_nb.dccdn import fuse, load_network, save_network
from fas_nb.decision import score_frames
from fas_nb.methods import METHODS, network_class, procedure_of
from fas_nb.metrics import auc
from fas_nb.specs import ScoringOptions
from fas_nb.training import held_out_loss, part_maker, train
from fas_nb.vocab import BONA_FIDE, Fold, Labels
from test_training import equal, toy_set

torch.set_num_threads(1)
NAMES = sorted(METHODS)
# measured on published code
FULL = {"cdcn": 2_245_016, "cdcn_pp": 2_257_352, "dc_cdn": 2_496_822, "ours": 2_497_078,
        "auxiliary": 2.25e6, "deep_pix_bis": 3.20e6, "mc_pix_bis": 3.20e6, "rgbd_mh_bce": 6.39e6, "cmfl": 6.39e6,
        "resnet50": 23.5e6}   # from layer tables

def spec_of(name, size=32, width=4, trunk="tiny", **training):
    "The run that profile smoke makes of a method, at a size."
    profile = get_profile("smoke", {"model.width": str(width), "trunk": trunk, "training.size": str(size),
                                    "scoring.size": str(size)})
    hashes = dict(annotations="", frames="", labels="")
    spec = make_spec(profile, Fold("toy", "toy", "toy", ("a",), (), ()), name, 0, hashes)
    return replace(spec, training=replace(spec.training, **dict(steps=40, batch=8) | training))

@pytest.fixture(scope="module")
def data():
    "Drawn faces whose attacks carry stripes; a sensor sees relief on faces and a plane on attacks."
    frames, labels = toy_set(12, 48)
    relief = (labels.depth*200).astype(np.uint8)
    flat = np.full_like(relief, 127)
    return replace(frames, depth=np.where((labels.species == BONA_FIDE)[:, None, None], relief, flat)), labels

def network(spec, seed=0):
    torch.manual_seed(seed)
    return procedure_of(spec.method).build(spec, "cpu")

@pytest.mark.parametrize("name", NAMES)
def test_shapes_at_two_sizes(name):
    for size in (32, 64):
        net = network(spec_of(name, size)).eval()
        out = net(net.prepare(torch.rand(3, net.planes, size, size)*255))
        parts = out if isinstance(out, tuple) else (out,)
        assert len(parts) == len(net.outputs) and all(len(x) == 3 and torch.isfinite(x).all() for x in parts)
        if hasattr(net, "score"): assert net.score(out).shape == (3,)
        if hasattr(net, "living"): assert net.living(out).shape[:2] == (3, 1)

SLOW = dict(dc_cdn=[pytest.mark.long])   # takes as long as all others together

@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, [])) for name in NAMES])
def test_learns_and_attacks_score_higher(name, data):
    # patches of others in half of the pictures: more steps
    spec = spec_of(name, steps=160 if name == "dc_cdn" else 40)
    model, log = train(spec, *data, procedure=procedure_of(name), entries=4,
                       validate=held_out_loss(spec, *data, procedure=procedure_of(name)))
    score = score_frames(model, data[0], spec.scoring).score
    assert np.isfinite(score).all() and log[-1]["loss"] < log[0]["loss"] and np.isfinite(log[-1]["dev loss"])
    assert float(auc(score, data[1].species)) > .9

@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name, data):
    spec = spec_of(name)
    procedure, net = procedure_of(name), network(spec).train()
    part = part_maker(spec, *data, np.arange(12), procedure=procedure)((0, 0))
    sum(procedure.loss(procedure.forward(net, net.prepare(part.images), spec), part.targets, spec).values()).backward()
    without = [k for k, p in net.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()
               or not p.grad.any()]
    assert not without

@pytest.mark.parametrize("name", NAMES)
def test_as_many_parameters_as_published(name):
    size = METHODS[name].size
    found = sum(p.numel() for p in network(spec_of(name, size, 64, "full")).parameters())
    assert found == FULL[name] if isinstance(FULL[name], int) else abs(found/FULL[name] - 1) < .003, found

@pytest.mark.parametrize("name", NAMES)
def test_weights_are_read_as_they_were_written(name, data, tmp_path):
    spec = spec_of(name)
    net = network(spec).eval()
    save_network(net, tmp_path/"w.safetensors", method=name)
    again, about = load_network(tmp_path/"w.safetensors")
    assert type(again) is type(net) and equal(net, again) and about["method"] == name
    x = net.prepare(torch.rand(2, net.planes, 32, 32)*255)
    several = lambda out: out if isinstance(out, tuple) else (out,)
    assert all(torch.equal(a, b) for a, b in zip(several(net(x)), several(again(x))))
    # folded for speed: the same
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(several(net(x)), several(fuse(net)(x))))

@pytest.mark.parametrize("name", NAMES)
def test_interrupted_training_goes_on_bit_by_bit(name, data, tmp_path):
    class Stop(Exception): pass
    def stop(log):
        if len(log) == 2: raise Stop
    spec, how = spec_of(name, steps=6, jitter=.1), dict(procedure=procedure_of(name), entries=3)
    straight, log = train(spec, *data, **how)
    with pytest.raises(Stop): train(spec, *data, checkpoint=tmp_path/"state", watch=stop, **how)
    resumed, again = train(spec, *data, checkpoint=tmp_path/"state", **how)
    assert equal(straight, resumed) and log == again

@pytest.mark.parametrize("name", NAMES)
def test_firewall(name, data):
    "A score follows from what the method declares: no label is at hand, and depth counts where it is an input alone."
    frames, labels = data
    spec = spec_of(name)
    net = network(spec).eval()
    before = score_frames(net, frames, spec.scoring).score
    blind = replace(frames, presentation=np.full(len(frames), "?"), source=np.full(len(frames), ""))
    assert np.array_equal(score_frames(net, blind, spec.scoring).score, before)
    other = score_frames(net, replace(frames, depth=255 - frames.depth), spec.scoring).score
    assert np.array_equal(other, before) == ("depth" not in METHODS[name].inputs)
    # annotated depth is a label: it never becomes an input
    nearer = Labels(labels.regions, 1 - labels.depth, labels.species)
    parts = [part_maker(spec, frames, x, np.arange(12), procedure=procedure_of(name))((0, 0)) for x in (labels, nearer)]
    assert name == "ours" or torch.equal(parts[0].images, parts[1].images)
    if "depth" in METHODS[name].inputs:
        with pytest.raises(ValueError, match="depth of a sensor"):
            score_frames(net, replace(frames, depth=None), spec.scoring)

def test_other_methods_leave_the_keys_of_ours():
    hashes = {name: code_hashes(name) for name in NAMES}
    assert len({h["code"] for h in hashes.values()}) == len(NAMES)
    from fas_nb.ablations import REPORTING, SCORES, TRAINS
    from fas_nb.closure import code_closure
    reached = {*code_closure(TRAINS, REPORTING), *code_closure(SCORES)}
    assert not [name for name in reached if name.split(".")[0] in ("map_methods", "head_methods", "methods")]
    keys = {spec_of(name).key() for name in NAMES}
    assert len(keys) == len(NAMES)

def test_an_entry_names_its_classes():
    for name, m in METHODS.items():
        assert VARIANTS[name].method == name and procedure_of(name).inputs == m.inputs
        assert network_class(m.network.partition(".")[2]).planes == {("rgb",): 3, ("rgb", "depth"): 4}[m.inputs]

def test_published_recipes_are_used_in_profile_paper():
    paper, hashes = get_profile("paper"), dict(annotations="", frames="", labels="")
    specs = {name: make_spec(paper, Fold("toy", "toy", "toy", ("a",), (), ()), name, 0, hashes) for name in NAMES}
    for name, m in METHODS.items():
        assert {k: getattr(specs[name].training, k)
                for k in m.recipe} == m.recipe and specs[name].training.size == specs[name].scoring.size == m.size
    assert (specs["ours"].training == paper.training and specs["cmfl"].model.trunk == "full"
            and specs["cmfl"].mcrea.gamma == 0)
    small = get_profile("small", {"training.jitter": ".1", "training.balanced": "true"})
    # what a profile asks of pictures and draws serves every method
    for name in NAMES:
        options = make_spec(small, Fold("toy", "toy", "toy", ("a",), (), ()), name, 0, hashes).training
        assert (options.jitter, options.balanced, options.epochs) == (.1, True, small.training.epochs)

def test_weights_to_begin_with(tmp_path, monkeypatch):
    """A file counts by what it holds, not by its name; a trunk begins with it; what cannot be had is said before any
    training."""
    from urllib.error import URLError
    import torchvision.models
    from fas_nb.manifest import file_hash
    from fas_nb.reports import remarks
    from fas_nb.training import _network
    from fas_nb.vocab import InputError
    def asked(**fields): return get_profile("smoke", {"trunk": "full", "training.size": "32", **fields})
    def spec(profile, name="resnet50"):
        return make_spec(profile, Fold("toy", "toy", "toy", ("a",), (), ()), name, 0,
                         dict(annotations="", frames="", labels=""))
    torch.manual_seed(5)
    given = torchvision.models.resnet50(num_classes=7)
    files = [tmp_path/name for name in ("one.pth", "two.pth")]
    torch.save(given.state_dict(), files[0])
    files[1].write_bytes(files[0].read_bytes())
    specs = [spec(asked(pretrained=str(file))) for file in files]
    assert specs[0].key() == specs[1].key() != spec(asked()).key() and specs[0].model.pretrained == file_hash(files[0])
    net = _network(specs[0], "cpu", False, procedure_of("resnet50", str(files[0])))
    assert torch.equal(net.trunk.layer3[2].conv2.weight,
                       given.layer3[2].conv2.weight) and net.head.weight.shape == (1, 2048)
    assert "weights one.pth" in remarks("resnet50", asked(pretrained=str(files[0])))
    assert [remarks("cmfl", asked(pretrained=p)) for p in ("none", "imagenet")] == [["no ImageNet weights"],
                                                                                    ["ImageNet weights"]]
    assert spec(asked(pretrained="imagenet"), "cdcn").model.pretrained == "none"                # which has no trunk
    with pytest.raises(InputError, match="add --set trunk=full"): spec(get_profile("smoke", {"pretrained": "imagenet"}))
    with pytest.raises(InputError, match="no file of weights"): spec(asked(pretrained=str(tmp_path/"none.pth")))
    with pytest.raises(InputError, match="not the file that this run names"):
        procedure_of("resnet50",
                     str(files[0])).start(net, replace(specs[0], model=replace(specs[0].model, pretrained="0"*64)))
    def fetched(*a, **kw): raise URLError("no network here")
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetched)
    with pytest.raises(InputError, match="go online"):
        procedure_of("resnet50").start(net, spec(asked(pretrained="imagenet")))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url",
                        lambda *a, **kw: torchvision.models.resnet50().state_dict())
    before = net.trunk.conv1.weight.clone()
    procedure_of("resnet50").start(net, spec(asked(pretrained="imagenet")))
    assert not torch.equal(net.trunk.conv1.weight, before)

# ---------------------------------------------------------------- runs, tables, commands
def command(root, *more):
    return ["--protocol", "table/own", "--profile", "smoke", "--set", "training.steps=20", "--set", "segmenter=polygon",
            "--data-root", str(root/"data"), "--root", str(root),
            "--workers", "1", "--quiet", *more]

def test_commands_take_every_kind_of_method(tmp_path, capsys):
    """A depth map, a map with a number, two streams with a sensor's depth: made once, listed, used on a picture,
    exported."""
    import json
    from fas_nb.cli import fas_export, fas_predict, fas_run
    from fas_nb.store import FrameStore
    from test_keys import photographs
    photographs(tmp_path/"data/table", depth=True)
    keys, picture = {}, str(tmp_path/"data/table/test0_bona_fide.png")
    for name in ("cdcn", "deep_pix_bis", "cmfl", "ours"):
        assert fas_run(command(tmp_path, "--method", name, "--json")) == 0
        row, = json.loads(capsys.readouterr().out)
        keys[name] = row["key"]
        assert row["variant"] == name and row["frames"]["test"] == 4 and row["auc"]["train"] is not None
    assert len(set(keys.values())) == 4
    assert fas_run(command(tmp_path, "--method", "cdcn", "--json")) == 0                     # found, not made again
    assert json.loads(capsys.readouterr().out)[0]["key"] == keys["cdcn"]
    assert fas_run(["--list", "--root", str(tmp_path)]) == 0
    listed = capsys.readouterr().out
    assert all(f" {name} " in listed for name in keys)
    for name in ("cdcn", "deep_pix_bis"):
        model = str(tmp_path/"runs"/keys[name])
        assert fas_predict([picture, "--model", model, "--json", "--overlay", str(tmp_path/"over")]) == 0
        verdict, = json.loads(capsys.readouterr().out)
        assert verdict["f_attack"] is None and np.isfinite(verdict["score"])
        fas_export([model, str(tmp_path/f"{name}.onnx")])
        assert "largest difference" in capsys.readouterr().out
        assert fas_predict([picture, "--model", str(tmp_path/f"{name}.onnx"), "--json"]) == 0
        assert abs(json.loads(capsys.readouterr().out)[0]["score"] - verdict["score"]) < 1e-4
        assert fas_export([model, str(tmp_path/"score.onnx"),
                           "--score"]) == 2 and "a score of its own" in capsys.readouterr().err
    assert fas_predict([picture, "--model",
                        str(tmp_path/"runs"/keys["cmfl"])]) == 1 and "depth of a sensor" in capsys.readouterr().out
    fas_export([str(tmp_path/"runs"/keys["cmfl"]), str(tmp_path/"cmfl.onnx")])
    assert "largest difference" in capsys.readouterr().out
    store = FrameStore(next((tmp_path/"runs/stores").glob("table-*"))/"frames")
    ids = sorted(p for p in [f"table/test{i}_{k}.png" for i in (0, 1) for k in ("bona_fide", "prints")])
    some = [i for i in ids if not store.missing([i])]
    if some:
        deep = store.read(some, depth=True)
        assert deep.depth.dtype == np.uint8 and deep.depth.shape == deep.images.shape[:3] and store.read(
            some).depth is None
        assert store.hash(some) != store.hash(some, depth=True)
    assert fas_run(command(tmp_path, "--method", "cdcn", "--variant",
                           "binary")) == 2 and "leave it out" in capsys.readouterr().err
    assert fas_run(command(tmp_path, "--method", "cdnc")) == 2 and "use some of ours" in capsys.readouterr().err

def test_without_a_sensor_there_is_no_run(tmp_path, capsys):
    from fas_nb.ablations import no_sensor
    from fas_nb.cli import fas_run
    from test_keys import photographs
    photographs(tmp_path/"data/table")
    assert fas_run(command(tmp_path, "--method", "mc_pix_bis")) == 2
    assert "needs the depth of a sensor, which" in capsys.readouterr().err
    assert no_sensor("cmfl", "oulu_npu/1") == "needs the depth of a sensor, which oulu_npu does not have"
    assert no_sensor("cdcn", "oulu_npu/1") == no_sensor("cmfl", "wmca/LOO_prints") == ""

def drawn(folder, table, origin, methods, profile):
    "A session whose runs hold scores drawn at random."
    import json
    from dataclasses import asdict
    import pandas as pd
    from fas_nb.ablations import SPLITS, TABLES, Cell, Data, no_sensor, results
    from fas_nb.reports import Session, variants_of
    rng, cells = np.random.default_rng(0), []
    for p, v in ((p, v) for p in TABLES[table].protocols for v in variants_of(table, methods) if not no_sensor(v, p)):
        dataset, name = p.split("/")
        spec = make_spec(get_profile(profile), Fold(dataset, name, name, ("a",), ("b",), ("c",)), v, 0,
                         dict(annotations="drawn", frames="drawn", labels=""))
        cells.append(Cell(p, v, spec))
        attack = name.removeprefix("LOO_") if dataset == "wmca" else "prints"
        rows = [(s, f"{s}{i}", f"{s}{i % 24}", kind, rng.normal((kind != BONA_FIDE)*2.)) for s in SPLITS
                for i in range(120) for kind in [BONA_FIDE if i % 2 else attack]]
        scores = pd.DataFrame(rows, columns="split presentation subject species score".split()).assign(
            frame=0, instrument=lambda t: t.presentation.str[-2:], f_attack=0., f_real=0., acquired=True,
            landmarks="mesh")
        (folder/spec.key()).mkdir(parents=True); scores.to_parquet(folder/spec.key()/"scores.parquet")
        (folder/spec.key()/"result.json").write_text(json.dumps(dict(results(scores, spec), origin=origin,
                                                                     seconds=dict(train=1., score=1.))))
    return Session(get_profile(profile), Data({}, {}, origin), tuple(cells), folder, folder/"pages",
                   asked=dict(methods=methods))

def test_rows_stand_beside_the_printed_ones_on_real_data(tmp_path):
    from fas_nb.reports import build_table, our_row, published, table_blocks
    session = drawn(tmp_path/"a", 1, "real", "cdcn,cmfl,resnet50", "paper")
    block, = table_blocks(session, 1)
    names, paper = [r[0] for r in block["rows"]], published(1)
    at = names.index("CDCN")
    # printed, made here, difference
    assert names[at:at + 3] == ["CDCN", "CDCN", "difference, CDCN, other settings"]
    column = block["columns"].index("prints")
    mine = our_row(session, 1, "cdcn")["prints"]
    assert float(
        block["rows"][at][column]) == paper.loc["CDCN",
                                                "prints"] and block["rows"][at
                                                                            + 1][column]["value"] == f"{mine.value:.1f}"
    gap = block["rows"][at + 2][column]
    # with its interval
    assert abs(float(gap["value"]) - (mine.value - paper.loc["CDCN", "prints"])) < .051 and " – " in gap["under"]
    at = names.index("CMFL-FAS")
    # a control has no printed row, and no difference
    assert names[at + 1] == "CMFL (no ImageNet weights)" and "ResNet50 (no ImageNet weights)" in names
    assert not [n for n in names if n.startswith("difference, ResNet50")] and names[-1].startswith("difference, fas_nb")
    page = build_table(1, session).read_text()
    assert "prints no row" in page and "--methods cdcn,cmfl,resnet50" in page

def test_rows_stand_in_our_block_on_rendered_data(tmp_path):
    from fas_nb.reports import build_table, empty_block, table_blocks
    session = drawn(tmp_path/"a", 3, "rendered", "all", "smoke")
    ours, paper = table_blocks(session, 3)
    names = [r[0] for r in ours["rows"]]
    assert (len(names) == len(METHODS) and names[-1] == "fas_nb, ours" and "DeepPixBiS (tiny trunk)" in names
            and "CDCN (width 4 of 64)" in names)
    assert all(cell.get("mark") == "syn" for row in ours["rows"] for cell in row[1:] if "empty" not in cell)
    deep = next(row for row in ours["rows"] if row[0].startswith("CMFL"))
    assert all(cell["empty"] == "needs the depth of a sensor, which oulu_npu does not have" for cell in deep[1:])
    taken = [row for row in empty_block(session, 3)[0]["rows"] if "CMFL" in str(row[1]) or "cmfl" in str(row[1])]
    assert taken and all("reads the depth of a sensor" in row[3]["text"] for row in taken)
    assert "difference" not in str(ours["rows"]) and len(paper["rows"]) == 8
    assert 'class="syn"' in build_table(3, session).read_text()
