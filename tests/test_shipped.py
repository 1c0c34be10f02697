"Networks and faces that travel with the package are what their manifest says; a change since is told, not refused."
import json

import pytest
from conftest import ROOT

from fas_nb.manifest import file_hash
from fas_nb.run_data import protocol_datasets
from fas_nb.pack import pack_path, pictured, shipped_folder
from fas_nb.shipped import DETECTOR, how_made, learning_curves, shipped
from fas_nb.specs import RunSpec, ScoringOptions
from fas_nb.vocab import Fold

pytestmark = pytest.mark.skipif(not (shipped_folder()/"manifest.json").exists(), reason="no networks travel yet")

def test_files_are_those_of_the_manifest():
    folder, networks = shipped_folder(), shipped()
    assert {s.name: s.sha256 for s in networks.values()} == {
        s.name: file_hash(folder/s.name) for s in networks.values()}
    assert sum(p.stat().st_size for p in folder.glob("*.safetensors")) < 15e6
    assert {p.name for p in folder.glob("*.safetensors")} == {s.name for s in networks.values()} | {
        "detector.safetensors"}

def test_each_network_has_the_key_that_training_would_give_it():
    for (protocol, variant, fold, seed), network in shipped().items():
        nothing = Fold(*protocol.split("/"), fold, (), (), ())
        own = RunSpec(nothing, "full", *[None]*3, ScoringOptions(), seed, "", "", "")
        assert network.taking(own).network_key() == network.key, (protocol, variant, fold)

def test_every_run_of_the_papers_tables_has_a_network_and_its_curve():
    from fas_nb.profiles import PROFILES
    from fas_nb.table_grid import PAPER_TABLES, TABLES
    networks, profile = shipped(), PROFILES["reference"]
    wanted = {(p, v) for t in PAPER_TABLES for p in TABLES[t].protocols for v in TABLES[t].variants}
    assert wanted == {(protocol, variant) for protocol, variant, *_ in networks}
    folds = {(p, v): {fold for q, w, fold, _ in networks if (p, v) == (q, w)} for p, v, *_ in networks}
    assert all(len(found) == (6 if p in ("oulu_npu/3", "oulu_npu/4") else 1) for (p, _), found in folds.items()), folds
    again = {(p, v): {seed for q, w, _, seed in networks if (p, v) == (q, w)} for p, v in wanted}
    assert all(seeds == ({0, 1, 2} if v in profile.repeated and p in TABLES[5].protocols else {0})
               for (p, v), seeds in again.items()), again
    curves = learning_curves().groupby("key")["dev AUC"].count()
    assert all(curves[s.key[:12]] > 3 for s in networks.values())

def test_the_pack_holds_pictures_of_dev_and_test():
    assert all(p.stat().st_size < 10e6 for p in pack_path().iterdir())
    assert set(pictured()) == {dataset for protocol, *_ in shipped() for dataset in protocol_datasets(protocol)}
    assert all(len(ids) >= 100 for ids in pictured().values())

def test_the_card_of_the_detector_tells_its_numbers():
    from fas_nb.ablations import detector_card
    card, told = (ROOT/"data_cards/detector.md").read_text(), how_made()["detector"]
    assert card == detector_card(how_made(), file_hash(shipped_folder()/DETECTOR))
    assert file_hash(shipped_folder()/DETECTOR) in card and "never seen a real attack" in card
    for species, rate in told["presentation"]["APCER of"].items():
        assert f"| {species} let in (APCER) | {rate['n']} | {100*rate['value']:.1f} % |" in card

def test_the_manifest_names_no_place_of_a_machine():
    text = (shipped_folder()/"manifest.json").read_text()
    assert "/home/" not in text and "/root" not in text and "/tmp" not in text
    assert how_made()["core hours"] > 0 and json.loads(text)["networks"]
