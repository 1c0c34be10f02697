"Training that is killed, spread over processes, or run with options that are off by default."
import json, math, os, signal, subprocess, time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BIN
from fas_nb.dccdn import load_network
from fas_nb.mean_face import mean_mesh
from fas_nb.specs import MCREAOptions, ModelOptions, RunSpec, ScoringOptions, TrainingOptions
from fas_nb.training import drawn_frames, pack, train, unpack
from fas_nb.vocab import MESH, Fold, Frames, InputError, Labels, Region

def toy_set(n=12, side=40):
    "Drawn faces; every second one is a print and carries stripes."
    from skimage.draw import polygon
    rng, points = np.random.default_rng(0), mean_mesh()*side*.26 + np.float32([side/2, side/2, 0])
    regions = np.zeros((side, side), np.uint8)
    for part, region in (("oval", Region.SKIN), ("nose", Region.NOSE), ("mouth", Region.MOUTH),
                         ("left_eye", Region.LEFT_EYE), ("right_eye", Region.RIGHT_EYE)):
        regions[polygon(*points[list(MESH[part]), 1::-1].T, regions.shape)] = region
    stripes = 60*(np.arange(side) % 4 < 2)[:, None]
    images = np.stack([rng.uniform(60, 150, (256, 3))[regions] + stripes*(i % 2)[..., None]
                       + rng.normal(0, 6, (side, side, 3)) for i in np.arange(n)[:, None]])
    ids = np.array([f"toy/{i}" for i in range(n)])
    depth = np.repeat(((regions > 0)*np.float32(.8))[None], n, 0)
    return (Frames(images.clip(0, 255).astype(np.uint8), np.repeat(points[None].astype(np.float32), n, 0), ids,
                   np.zeros(n, int), np.full(n, "mesh")),
            Labels(np.repeat(regions[None], n, 0), depth, np.where(np.arange(n) % 2, "prints", "bona_fide")))

def toy_spec(model=None, mcrea=None, **training):
    options = TrainingOptions(**dict(size=24, steps=12, batch=8, lr=4e-3, schedule="one_cycle") | training)
    return RunSpec(Fold("toy", "toy", "toy", ("a",), (), ()), "full", ModelOptions(**dict(width=4) | (model or {})),
                   options, MCREAOptions(**(mcrea or {})),
                   ScoringOptions(size=24), 0, "", "", "")

def equal(a, b): return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))

@pytest.fixture(scope="module")
def data(): return toy_set()

@pytest.fixture(scope="module")
def whole(data):
    torch.set_num_threads(1)
    return train(toy_spec(), *data, entries=4)

KILLED = """
import sys, time, torch
sys.path.insert(0, {tests!r})
from test_training import toy_set, toy_spec, train
torch.set_num_threads(1)
def slow(log): time.sleep(.4)      # leaves the parent time to kill in the middle
train(toy_spec(), *toy_set(), checkpoint={checkpoint!r}, out={out!r}, entries=4, watch=slow if {kill} else None,
      workers={workers})
"""

@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.long)])
def test_sigkill_changes_no_bit(data, whole, tmp_path, workers):
    def code(kill):
        return KILLED.format(tests=str(Path(__file__).parent), checkpoint=str(tmp_path/"state"),
                             out=str(tmp_path/"out"), kill=kill, workers=workers)
    process = subprocess.Popen([str(BIN/"python"), "-c", code(True)], start_new_session=True)
    end = time.time() + 120
    while not (tmp_path/"state").exists() and time.time() < end and process.poll() is None: time.sleep(.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    step = torch.load(tmp_path/"state", weights_only=True)["step"]
    assert 0 < step < 12, "killed between the first and the last entry of the log"
    done = subprocess.run([str(BIN/"python"), "-c", code(False)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model, _ = load_network(tmp_path/"out/last.safetensors")
    assert equal(model, whole[0])
    assert [json.loads(line) for line in (tmp_path/"out/log.jsonl").read_text().splitlines()] == whole[1]

def test_best_and_last(data, whole, tmp_path):
    values, state = (.5, .1, .3, .4), tmp_path/"state"
    def told(values): return lambda model, values=iter(values): {"loss of others": next(values)}
    kept, log = train(toy_spec(), *data, validate=told(values), out=tmp_path/"out", best="loss of others", entries=4)
    assert sorted(p.name for p in (tmp_path/"out").iterdir()) == ["best.safetensors", "last.safetensors", "log.jsonl"]
    last, best = (load_network(tmp_path/f"out/{name}.safetensors")[0] for name in ("last", "best"))
    assert equal(last, kept) and equal(last, whole[0]) and not equal(best, kept)
    seen = []
    train(toy_spec(), *data,
          validate=lambda m: {"n": float(not seen.append([v.clone() for v in m.state_dict().values()]))}, entries=4)
    assert all(torch.equal(x, y) for x, y in zip(best.state_dict().values(), seen[1]))
    class Stop(Exception): pass                  # interrupted after the best: it is there again, in another folder too
    def stop(log):
        if len(log) == 3: raise Stop
    with pytest.raises(Stop):
        train(toy_spec(), *data, validate=told(values), checkpoint=state, best="loss of others", watch=stop, entries=4)
    train(toy_spec(), *data, validate=told(values[3:]), checkpoint=state, out=tmp_path/"again",
          best="loss of others", entries=4)
    assert equal(load_network(tmp_path/"again/best.safetensors")[0], best)

def nan_gradient(monkeypatch, steps):
    "A finite loss whose gradient is nan in some steps: the root of zero."
    from fas_nb import procedures
    original, step = procedures.annotation_loss, iter(range(99))
    monkeypatch.setattr(procedures, "annotation_loss",
                        lambda pred, *a: original(pred, *a) + ((pred*0).sqrt().sum() if next(step) in steps else 0))

@pytest.mark.parametrize("step", [2, 11], ids=["amidst", "last"])
def test_a_gradient_that_is_not_finite_stops_its_own_step(data, tmp_path, monkeypatch, step):
    nan_gradient(monkeypatch, [step])
    with pytest.raises(RuntimeError, match=f"of step {step} .*norm of its gradient nan"):
        train(toy_spec(), *data, out=tmp_path, checkpoint=tmp_path/"state", entries=12)
    said = json.loads((tmp_path/"log.jsonl").read_text().splitlines()[-1])
    assert (said["step"], said["gradient"], len(said["batch"])) == (step, "nan",
                                                                    8) and math.isfinite(float(said["loss"]))
    assert all(torch.isfinite(v).all() for v in torch.load(tmp_path/"state", weights_only=True)["model"].values())

def test_packed_arrays_and_workers_make_the_same_network(data, whole, tmp_path):
    packed = unpack(pack([data], len(data[0]), tmp_path/"packed"))
    assert equal(train(toy_spec(), *packed, workers=2)[0], whole[0])

@pytest.mark.parametrize("spec", [dict(clip=1e-3), dict(ema=.5), dict(precision="bf16"), dict(loss_grid="full"),
                                  dict(mcrea=dict(place="before_crop")),
                                  dict(model=dict(head="decoder")), dict(model=dict(network="ccdn")),
                                  dict(model=dict(network="cdcn"))], ids=str)
def test_options_do_something_and_learn(data, whole, spec):
    model, log = train(toy_spec(steps=40, **spec), *data, entries=4)
    assert math.isfinite(log[-1]["loss"]) and log[-1]["loss"] < log[0]["loss"]
    if model.state_dict().keys() == whole[0].state_dict().keys():
        assert not equal(model, train(toy_spec(steps=40), *data)[0])

def test_bf16_is_finite_where_dilated_convolutions_are_not(data):
    "24 to 16 channels at 48 pixels: the gradient of the split form holds nan in bfloat16 on a CPU with oneDNN."
    _, log = train(toy_spec(model=dict(width=8), precision="bf16", size=48, batch=12, steps=4),
                   *toy_set(12, 60), entries=4)
    assert all(math.isfinite(row["loss"]) for row in log)

def test_clipping_bounds_the_gradient(data):
    "Adam's second moment shows how large the gradients were."
    from accelerate import Accelerator
    norms = []
    original = Accelerator.clip_grad_norm_
    def spy(self, parameters, limit):
        parameters = list(parameters)
        out = original(self, parameters, limit)
        norms.append(float(torch.stack([p.grad.norm() for p in parameters]).norm()))
        return out
    Accelerator.clip_grad_norm_ = spy
    try: train(toy_spec(clip=1e-3, steps=3), *data)
    finally: Accelerator.clip_grad_norm_ = original
    assert len(norms) == 3 and max(norms) <= 1.001e-3

def test_average_goes_on_after_an_interruption(data, tmp_path):
    class Stop(Exception): pass
    def stop(log):
        if len(log) == 2: raise Stop
    spec = toy_spec(ema=.5)
    with pytest.raises(Stop): train(spec, *data, checkpoint=tmp_path/"state", watch=stop, entries=4)
    straight, resumed = train(spec, *data, entries=4), train(spec, *data, checkpoint=tmp_path/"state", entries=4)
    assert equal(straight[0], resumed[0]) and straight[1] == resumed[1]
    # it follows, it does not lead
    assert [e["loss"] for e in straight[1]] == [e["loss"] for e in train(toy_spec(), *data, entries=4)[1]]

TWO = """
import sys, torch
sys.path.insert(0, {tests!r})
from test_training import toy_set, toy_spec, train
from accelerate import Accelerator
torch.set_num_threads(1)
model, log = train(toy_spec(steps=8, micro=2), *toy_set(), out={out!r}, checkpoint={out!r} + "/state", entries=4)
torch.save(model.state_dict(), {out!r} + f"/rank{{Accelerator().process_index}}")
"""

def several_processes(tmp_path, n=2, before=""):
    (tmp_path/"two.py").write_text(before + TWO.format(tests=str(Path(__file__).parent), out=str(tmp_path/"out")))
    return subprocess.run([str(BIN/"torchrun"), "--standalone", "--nproc_per_node", str(n), str(tmp_path/"two.py")],
                          capture_output=True, text=True, timeout=240,
                          # what `accelerate launch` does for GPUs
                          env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"})

@pytest.mark.parametrize("n", [2, pytest.param(3, marks=pytest.mark.long)])
def test_the_number_of_processes_changes_nothing(data, tmp_path, n):
    """Four parts on one process, on two, and on three of which one has two: the same network, statistics of batch norm
    included, and the same log."""
    done = several_processes(tmp_path, n)
    assert done.returncode == 0, done.stderr[-3000:]
    alone, log = train(toy_spec(steps=8, micro=2), *data, entries=4)
    first, *others = (torch.load(tmp_path/f"out/rank{r}", weights_only=True) for r in range(n))
    begun = train(toy_spec(steps=1, micro=2, lr=1e-9), *data)[0].state_dict()
    for name, value in alone.state_dict().items():
        # the processes agree to the bit
        assert all(torch.equal(first[name], o[name]) for o in others), name
    def distance(a, b, kind): return math.sqrt(sum(float((a[k] - b[k]).square().sum()) for k in a if kind(k)))
    for kind in (lambda k: "running" not in k and "tracked" not in k, lambda k: "running" in k):
        apart, moved = distance(first, alone.state_dict(), kind), distance(begun, alone.state_dict(), kind)
        # rounding of sums, against what was learnt
        assert apart < .002*moved and moved > .1, (apart, moved)
    assert all(torch.equal(v, first[k]) for k, v in alone.state_dict().items() if "tracked" in k)
    rows = [json.loads(line) for line in (tmp_path/"out/log.jsonl").read_text().splitlines()]
    for row, one in zip(rows, log, strict=True):                                           # one process wrote
        assert (row["step"], row["mcrea"], row["dead"]) == (one["step"], one["mcrea"], one["dead"])
        assert math.isclose(row["loss"], one["loss"], rel_tol=1e-3) and math.isclose(row["active living"],
                                                                                     one["active living"],
                                                                                     rel_tol=.02, abs_tol=.01)
    # no word of processes
    assert torch.load(tmp_path/"out/state", weights_only=True)["key"] == toy_spec(steps=8, micro=2).network_key()

def test_parts_are_batches_of_their_own(data):
    """The gradient of a batch in parts is the mean of the parts' gradients, and the running statistics move by the
    mean of theirs."""
    from fas_nb.training import _Learner, part_maker, team
    spec, rows = toy_spec(micro=2, steps=1), np.arange(12)
    whole = _Learner(spec, team(), torch.device("cpu"), False)
    make = part_maker(spec, *data, rows)
    row = whole.gather_gradient(0, (make((0, p)) for p in range(4)))
    each = []
    for p in range(4):
        one = _Learner(toy_spec(steps=1, batch=2), team(), torch.device("cpu"), False)
        part = make((0, p))
        each.append((one, one.gather_gradient(0, [replace(part, share=1.)])))
    assert math.isclose(row["loss"], np.mean([r["loss"] for _, r in each]), rel_tol=1e-6)
    assert row["exchanged"] == sum(r["exchanged"] for _, r in each)
    for i, p in enumerate(whole.model.parameters()):
        mean = torch.stack([list(one.model.parameters())[i].grad for one, _ in each]).mean(0)
        assert torch.allclose(p.grad, mean, rtol=1e-4, atol=1e-6)
    for name, value in whole.model.state_dict().items():
        if "running" in name:
            assert torch.allclose(value, torch.stack([one.model.state_dict()[name] for one, _ in each]).mean(0),
                                  rtol=1e-5, atol=1e-7)
    # parts are not the whole
    assert not torch.equal(*(next(iter(train(toy_spec(micro=m), *data)[0].parameters())) for m in (0, 2)))

def test_parts_killed_and_computed_again(data, tmp_path):
    "Interrupted in the middle, activations computed a second time, batches made by threads: the same bits."
    class Stop(Exception): pass
    def stop(log):
        if len(log) == 2: raise Stop
    spec = toy_spec(micro=3)                                                                # parts of 3, 3 and 2
    straight = train(spec, *data, entries=4)
    with pytest.raises(Stop): train(spec, *data, checkpoint=tmp_path/"state", watch=stop, entries=4, recompute=True)
    seconds = {}
    resumed = train(spec, *data, checkpoint=tmp_path/"state", entries=4, workers=2, recompute=True, seconds=seconds)
    assert equal(straight[0], resumed[0]) and straight[1] == resumed[1] and list(seconds) == [
        "waiting for batches"] and seconds["waiting for batches"] > 0
    # which is for GPUs
    assert equal(straight[0], train(replace(spec, training=replace(spec.training, tf32=False)), *data)[0])

@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_set_while_training(data, allowed):
    seen, before = [], torch.backends.cudnn.allow_tf32
    train(toy_spec(steps=1, tf32=allowed), *data, watch=lambda log: seen.append(torch.backends.cudnn.allow_tf32))
    assert (seen, torch.backends.cudnn.allow_tf32) == ([allowed], before)

SPOILT = """
import os
from fas_nb import procedures
original = procedures.annotation_loss
def spoilt(pred, *a): return original(pred, *a) + ((pred*0).sqrt().sum() if os.environ["RANK"] == "1" else 0)
procedures.annotation_loss = spoilt
"""

@pytest.mark.long
def test_all_processes_stop_and_the_whole_batch_is_named(data, tmp_path):
    "One of two gives a gradient that is not finite."
    done = several_processes(tmp_path, before=SPOILT)
    assert done.returncode and "the norm of its gradient nan" in done.stderr
    said = json.loads((tmp_path/"out/log.jsonl").read_text())
    assert said["step"] == 0 and sorted(said["batch"]) == sorted(f"{data[0].presentation[i]} frame 0"
                                                                 for i in drawn_frames(data[0].presentation, 0, 8, 0))

def test_there_are_as_many_parts_as_processes(data, monkeypatch):
    import accelerate
    monkeypatch.setattr(accelerate.Accelerator, "num_processes", property(lambda self: 3))
    with pytest.raises(InputError, match="start at most 1, or set training.micro=2"): train(toy_spec(), *data)
    with pytest.raises(InputError, match="start at most 2"): train(toy_spec(micro=4), *data)
