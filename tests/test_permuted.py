"Labels that say nothing teach nothing: the small form of nbs/bench/permuted_labels."
import json
from dataclasses import replace

import numpy as np
import pytest
from fas_nb.ablations import PROFILES, SPLITS, Data, data_hashes, make_spec, run
from fas_nb.mean_face import mean_mesh
from fas_nb.specs import ScoringOptions
from fas_nb.store import AnnotationStore, FrameStore
from fas_nb.vocab import Annotation, Fold, Frames, Landmarks, Presentation, Region

def barred_data(folder, n=64, side=48):
    """Faces with upright bars (bona fide) or level bars (attacks), half and half, in real stores.
    Both kinds of bars have the same contrast, and tint and noise differ from one presentation to the next: what else
    a network of permuted labels picks up, such as how clear a face is, says nothing about the class."""
    rng, people = np.random.default_rng(0), {}
    frames, annotations = FrameStore(folder/"frames",
                                     dict(n=1, size=side)), AnnotationStore(folder/"annotations", dict(by="hand"))
    mesh = mean_mesh()
    points = ((mesh - mesh.min(0))/np.ptp(mesh, 0).max()*side*.55 + side*.22).astype(np.float32)
    regions = np.zeros((side, side), np.uint8); regions[10:40, 12:36] = Region.SKIN
    upright = np.broadcast_to(np.where(np.arange(side) % 8 < 4, 40, -40), (side, side))
    for split in SPLITS:
        for i in range(n):
            p = Presentation(f"oulu_npu/{split}{i}", "oulu_npu", f"{split}{i % 2}", "1", "1",
                             "prints" if i % 4 > 1 else "bona_fide", f"{split}{i}")
            image = rng.uniform(60, 150, 3)*np.ones((side, side, 1)) + (regions == 0)[..., None]*rng.uniform(-50, 50, 3)
            bars = upright.T if p.species == "prints" else upright
            image += (rng.uniform(.5, 1)*bars + rng.normal(0, rng.uniform(5, 25), (side, side)))[..., None]
            frames.write(p.id, Frames(image.clip(0, 255).astype(np.uint8)[None], points[None], np.array([p.id]),
                                      np.array([0]), np.array(["mesh"])))
            annotations.write(p.id, 0, Annotation(regions, (regions > 0)*np.float32(.8),
                                                  Landmarks(points, np.float32([10, 10, 38, 38])), p.species))
            people[p.id] = p
    return Data(people, {"oulu_npu": str(folder)}, "rendered")

@pytest.mark.long
def test_permuted_labels_teach_nothing(tmp_path):
    data = barred_data(tmp_path/"store")
    fold = Fold("oulu_npu", "1", "1",
                *(tuple(i for i in data.presentations if i.startswith(f"oulu_npu/{s}")) for s in SPLITS))
    profile = replace(PROFILES["smoke"],
                      training=replace(PROFILES["smoke"].training, size=24, steps=160, batch=16, lr=4e-3, leak=0.),
                      scoring=ScoringOptions(frames=1, size=24))
    spec = make_spec(profile, fold, "ours", 0, data_hashes(fold, data))
    auc = lambda s: json.loads((run(s, data, tmp_path/"runs")/"result.json").read_text())["auc"]["test"]
    assert auc(spec) > .85                                                         # there is something to learn
    permuted = [auc(replace(spec, permuted=i, seed=i)) for i in range(5)]
    # one permutation has a standard deviation of .16, the mean of five .07
    assert abs(np.mean(permuted) - .5) < .2, permuted
