"Labels that say nothing teach nothing: the small form of nbs/bench/permuted_labels."
import json
from dataclasses import replace

import numpy as np
from fas_nb.ablations import PROFILES, SPLITS, Data, data_hashes, make_spec, run
from fas_nb.landmarks import mean_mesh
from fas_nb.maps import AnnotationStore, FrameStore
from fas_nb.vocab import Annotation, Fold, Frames, Landmarks, Presentation, Region, ScoringOptions

def striped_data(folder, n=32, side=48):
    "Noisy pictures of 32 presentations a split, half of them attacks, which are striped; in real stores."
    rng, people = np.random.default_rng(0), {}
    frames, annotations = FrameStore(folder/"frames", dict(n=1, size=side)), AnnotationStore(folder/"annotations", dict(by="hand"))
    mesh = mean_mesh()
    points = ((mesh - mesh.min(0))/np.ptp(mesh, 0).max()*side*.55 + side*.22).astype(np.float32)
    regions = np.zeros((side, side), np.uint8); regions[10:40, 12:36] = Region.SKIN
    for split in SPLITS:
        for i in range(n):
            p = Presentation(f"oulu_npu/{split}{i}", "oulu_npu", f"{split}{i % 2}", "1", "1", "prints" if i % 4 > 1 else "bona_fide", f"{split}{i}")
            image = rng.integers(90, 160, (1, side, side, 3)).astype(np.uint8)
            image[:, np.arange(side) % 8 < 4] += 90*np.uint8(p.species == "prints")
            frames.write(p.id, Frames(image, points[None], np.array([p.id]), np.array([0]), np.array(["mesh"])))
            annotations.write(p.id, 0, Annotation(regions, (regions > 0)*np.float32(.8), Landmarks(points, np.float32([10, 10, 38, 38])), p.species))
            people[p.id] = p
    return Data(people, {"oulu_npu": str(folder)}, "rendered")

def test_permuted_labels_teach_nothing(tmp_path):
    data = striped_data(tmp_path/"store")
    fold = Fold("oulu_npu", "1", "1", *(tuple(i for i in data.presentations if i.startswith(f"oulu_npu/{s}")) for s in SPLITS))
    profile = replace(PROFILES["smoke"], training=replace(PROFILES["smoke"].training, size=24, steps=100, batch=16, lr=4e-3),
                      scoring=ScoringOptions(frames=1, size=24))
    spec = make_spec(profile, fold, "no_mcrea", 0, data_hashes(fold, data))
    auc = lambda s: json.loads((run(s, data, tmp_path/"runs")/"result.json").read_text())["auc"]["test"]
    assert auc(spec) > .9                                                          # there is something to learn
    permuted = [auc(replace(spec, permuted=i, seed=i)) for i in range(2)]
    # a leak would push attacks upwards; below one half the score only follows contrast, which stripes raise in both maps
    assert np.mean(permuted) < .6, permuted
