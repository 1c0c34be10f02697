"Properties that hold of every set of scores, searched for counterexamples; scikit-learn and scipy as second opinions."
import math, warnings

import numpy as np
import pytest
from fas_nb.metrics import (acer, apcer, auc, bootstrap, bpcer, bpcer_at_apcer, clopper_pearson, compare, definitions,
                            eer, hter, mean_rate,
                            threshold_at_apcer, threshold_at_bpcer, threshold_at_eer)
from hypothesis import given, settings, strategies as st
from scipy.stats import binomtest
from sklearn.metrics import det_curve, roc_auc_score

pytestmark = pytest.mark.filterwarnings("ignore:.*polarity.*")
SPECIES = ("bona_fide", "prints", "replay", "wig")
# whole numbers: ties are frequent, and every monotone transform below keeps their order exactly
ITEMS = st.lists(st.tuples(st.integers(-20, 20), st.sampled_from(SPECIES), st.booleans()), min_size=1, max_size=40)
search, brief = (settings(max_examples=n, deadline=None) for n in (150, 40))   # the bootstrap costs more

def arrays(items):
    score, species, acquired = map(np.array, zip(*items))
    return score.astype(float), species, acquired

def value(rate): return None if math.isnan(rate) else float(rate)

@search
@given(ITEMS, st.integers(-25, 25), st.integers(0, 10))
def test_monotone_in_the_threshold(items, t, more):
    score, species, acquired = arrays(items)
    for rate, sign in ((apcer, 1), (bpcer, -1)):
        low, high = (value(rate(score, species, x, acquired=acquired)) for x in (t, t + more))
        assert (low is None) == (high is None)
        if low is not None: assert sign*(high - low) >= 0

@search
@given(ITEMS, st.sampled_from([lambda x: 3*x + 7, np.cbrt, lambda x: np.exp(x/8)]))
def test_only_the_order_of_scores_matters(items, transform):
    score, species, acquired = arrays(items)
    for rate in (eer, auc, bpcer_at_apcer, lambda *a, **k: acer(*a, threshold_at_bpcer(*a, **k), **k),
                 lambda *a, **k: hter(*a, threshold_at_eer(*a, **k), **k)):
        assert value(rate(score, species, acquired=acquired)) == value(rate(transform(score), species,
                                                                            acquired=acquired))

@search
@given(ITEMS, st.integers(-25, 25), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(items, t, random):
    shuffled = list(items); random.shuffle(shuffled)
    for rate in (apcer, bpcer, acer, hter):
        assert value(rate(*arrays(items)[:2], t)) == value(rate(*arrays(shuffled)[:2], t))
    for choose in (threshold_at_bpcer, threshold_at_eer, threshold_at_apcer):
        assert value(choose(*arrays(items)[:2])) == value(choose(*arrays(shuffled)[:2]))

@search
@given(ITEMS)
def test_rates_are_shares_or_say_why_not(items):
    score, species, acquired = arrays(items)
    t = threshold_at_eer(score, species, acquired=acquired)
    for rate in (apcer, bpcer, acer, hter):
        r = rate(score, species, t, acquired=acquired)
        assert bool(r.reason) if math.isnan(r) else 0 <= float(r) <= 1

@search
@given(ITEMS, st.sampled_from((0, .01, .1, .5)))
def test_fixed_points_are_kept_and_tight(items, target):
    score, species, _ = arrays(items)
    t = threshold_at_bpcer(score, species, target)
    if not t.reason: assert float(bpcer(score, species, t)) <= target
    t = threshold_at_apcer(score, species, target)
    if t.reason: return
    assert float(apcer(score, species, t)) <= target or t.value < score.min()
    higher = score[score > t.value]
    if len(higher) and (species[score == higher.min()] != "bona_fide").any() and (apcer(score, species,
                                                                                        higher.min()).value <= target):
        assert False, "a higher threshold would have done"

@brief
@given(ITEMS, st.integers(-25, 25), st.integers(1, 4))
def test_intervals_hold_their_rate(items, t, size):
    score, species, acquired = arrays(items)
    groups = np.arange(len(score))//size
    for r in bootstrap(score, species, t, groups=groups, acquired=acquired, rng=np.random.default_rng(0),
                       replicates=60).values():
        assert (r.interval is None) == bool(r.reason)
        # exact intervals hold it always
        if r.interval and r.note: assert r.interval[0] - 1e-9 <= float(r) <= r.interval[1] + 1e-9

@search
@given(st.integers(1, 200), st.data())
def test_clopper_pearson_is_scipys(n, data):
    e = data.draw(st.integers(0, n))
    assert clopper_pearson(e, n) == pytest.approx(tuple(binomtest(e, n).proportion_ci(.95, "exact")), abs=1e-9)

@search
@given(ITEMS)
def test_scikit_learn_agrees(items):
    score, species, _ = arrays(items)
    attack = species != "bona_fide"
    if attack.all() or not attack.any(): return
    assert float(auc(score, species)) == pytest.approx(roc_auc_score(attack, score))
    # its curve calls an attack what is >= a threshold: our `score > t` of the next lower number
    rejected, accepted, at = det_curve(attack, score)
    for r, a, t in zip(rejected, accepted, at):
        if not np.isfinite(t): continue
        below = np.nextafter(t, -np.inf)
        assert float(bpcer(score, species, below)) == pytest.approx(r) and float(apcer(score, species, below,
                                                                                       pooled=True)) == pytest.approx(a)

def test_coverage_of_a_clustered_bootstrap():
    "People differ: the interval over people holds the true rate in most repetitions, the one over frames in few."
    truth, held = .5, {"people": 0, "frames": 0}
    for i in range(120):
        rng = np.random.default_rng(i)
        # 40 people, 10 frames each; half are above 0
        score = np.repeat(rng.normal(0, 1, 40), 10) + rng.normal(0, .1, 400)
        for name, groups in (("people", np.arange(400)//10), ("frames", np.arange(400))):
            low, high = bootstrap(score, np.repeat("bona_fide", 400), 0., groups=groups, rng=rng,
                                  replicates=200)["bpcer"].interval
            held[name] += low <= truth <= high
    assert held["people"] >= 100 and held["frames"] <= 70, held

def test_coverage_where_clusters_are_few():
    """Six videos whose frames agree: counted as six presentations the interval holds the truth; with one error per
    frame it would not."""
    held = 0
    for i in range(200):
        rng = np.random.default_rng(i)
        wrong = np.repeat(rng.random(6) < .3, 10)
        r = bootstrap(np.where(wrong, -1., 1.), np.repeat("glasses", 60), 0., groups=np.zeros(60, int),
                      units=np.arange(60)//10, rng=rng, replicates=1)
        low, high = r["apcer"].interval
        held += low <= .3 <= high
    assert held >= 190, held

def part(seed, n=12, shift=0.):
    rng = np.random.default_rng(seed)
    return dict(score=np.r_[rng.normal(-1 + shift, 1, 5*n), rng.normal(1, 1, 5*n)],
                species=np.repeat(["bona_fide", "prints"], 5*n), threshold=0.,
                groups=np.r_[np.repeat([f"p{i}" for i in range(n)], 5), np.repeat([f"{seed}m{i}" for i in range(n)],
                                                                                  5)], units=np.arange(10*n))

@brief
@given(st.integers(0, 10**6))
def test_comparing_is_antisymmetric(seed):
    a, b = [[part(seed)]], [[part(seed + 1)]]
    there, back = (compare(*pair, "ACER", rng=np.random.default_rng(0), replicates=40) for pair in ((a, b), (b, a)))
    assert there.value == pytest.approx(-back.value) and there.interval[0] <= there.interval[1]

def test_definitions_do_not_warn_of_what_is_well():
    p = part(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = definitions((p["score"], p["species"], None), (p["score"], p["species"], None))
    assert ((table >= 0) & (table <= 1)).all(axis=None)
    assert mean_rate([[p]], "HTER", rng=np.random.default_rng(0),
                     replicates=10).value == pytest.approx(float(hter(p["score"], p["species"], 0.)))
