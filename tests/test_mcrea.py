"What must hold of region exchange whatever its options are."
import numpy as np
import torch
from fas_nb.mcrea import flip_faces, mcrea
from fas_nb.mean_face import mean_mesh
from fas_nb.specs import MCREA_CHOICES, MCREAOptions
from fas_nb.vocab import MESH, Channel, Region
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import polygon

def batch(seed, n=5, side=40):
    "Faces in different places, sizes and turns, some with an instrument; about half are attacks."
    rng, rows = np.random.default_rng(seed), []
    for _ in range(n):
        turn, scale, shift = rng.uniform(-.4, .4), side*rng.uniform(.15, .45), side*rng.uniform(.4, .6, 2)
        points = mean_mesh()
        points[:, :2] = scale*points[:, :2] @ np.array([[np.cos(turn), np.sin(turn)],
                                                        [-np.sin(turn), np.cos(turn)]]) + shift
        regions = np.zeros((side, side), np.uint8)
        for part, region in (("oval", Region.SKIN), ("nose", Region.NOSE), ("mouth", Region.MOUTH),
                             ("left_eye", Region.LEFT_EYE), ("right_eye", Region.RIGHT_EYE)):
            regions[polygon(*points[list(MESH[part]), 1::-1].T, regions.shape)] = region
        attack, worn = rng.random() < .5, rng.random() < .5
        if worn: regions[10:16, 8:32] = Region.INSTRUMENT
        skin = np.isin(regions, (Region.SKIN, Region.NOSE))
        red = (skin & attack) | (regions == Region.INSTRUMENT)
        depth = rng.uniform(.1, 1, (side, side))
        rows.append((rng.uniform(0, 255, (3, side, side)), np.stack([depth*red, depth*(skin & ~red), ~(skin | red)]),
                     regions, points))
    images, maps, regions, points = (torch.tensor(np.stack(x)) for x in zip(*rows))
    return images.float(), maps.float(), regions, points.float()

options = st.builds(MCREAOptions, gamma=st.sampled_from((0., .4, 1.)), rho=st.integers(0, 3), self_donor=st.booleans(),
                    move_landmarks=st.booleans(), living_on_attack=st.booleans(),
                    part=st.sampled_from(("", "nose", "skin", "instrument")),
                    **{k: st.sampled_from(v) for k, v in MCREA_CHOICES.items() if k not in ("warp", "pairing")},
                    ) .flatmap(lambda o: st.sampled_from([(w, p) for w in MCREA_CHOICES["warp"]
                                                          for p in MCREA_CHOICES["pairing"]
                                                          if (w, p) != ("affine", "independent")]).map(
                                                          lambda wp: MCREAOptions(**{f: getattr(o, f)
                                                                                     for f in o.__dataclass_fields__}
                                                                                  | dict(warp=wp[0], pairing=wp[1]))))

@settings(max_examples=120, deadline=None)
@given(st.integers(0, 50), st.integers(0, 1000), options)
def test_invariants(data_seed, seed, how):
    given_ = batch(data_seed)
    copies = [x.clone() for x in given_]
    r = mcrea(*given_, options=how, rng=np.random.default_rng(seed))
    again = mcrea(*given_, options=how, rng=np.random.default_rng(seed))
    out = (r.images, r.maps, r.regions, r.landmarks)
    # what was given is left alone
    assert all(torch.equal(a, b) for a, b in zip(given_, copies))
    assert all(torch.equal(a, b)
               for a, b in zip(out, (again.images, again.maps, again.regions, again.landmarks))) and r.log == again.log
    assert all(a.shape == b.shape and a.dtype == b.dtype
               for a, b in zip(out, given_)) and all(torch.isfinite(x).all() for x in out[:2])
    if how.gamma*how.rho == 0: assert all(torch.equal(a, b) for a, b in zip(out, given_))
    known = r.regions != Region.IGNORE
    support = r.maps[:, :Channel.BACKGROUND] > 0
    # no pixel is both
    assert not (support[:, 0] & support[:, 1]).any()
    # background is where neither is
    assert torch.equal((r.maps[:, Channel.BACKGROUND] == 1)[known], ~support.any(1)[known])
    assert (r.maps.movedim(1, -1)[~known] == 0).all() and (known.all() or how.leftover == "ignore")
    changed = sum(not torch.equal(a, b) for a, b in zip(r.images, given_[0]))
    if how.direction == "copy": assert changed <= int(how.gamma*5)
    if not how.living_on_attack and how.scheme == "clip" and how.image_label == "any":
        attacks = (given_[1][:, Channel.ATTACK] > 0).flatten(1).any(1)
        # no new evidence for living, part by part
        assert not ((r.maps[:, Channel.LIVING] > 0) & (given_[1][:, Channel.LIVING] == 0))[attacks].any()
    log = r.log
    assert sum(log.get(k, 0) for k in ("same", "living<-attack",
                                       "attack<-living")) == log.get("exchanged", 0) >= log.get("label-changing", 0)
    asked = sum(v for k, v in log.items() if k.startswith("skipped") or k == "exchanged")
    assert asked == int(how.gamma*5)*how.rho if how.direction == "copy" else asked >= int(how.gamma*5)*how.rho

@settings(max_examples=30, deadline=None)
@given(st.integers(0, 200))
def test_flipping_twice_is_the_identity(seed):
    given_ = batch(seed)
    back = flip_faces(*flip_faces(*given_))
    assert all(torch.equal(a, b) for a, b in zip(given_[:3], back[:3])) and (given_[3] - back[3]).abs().max() < 1e-4
