"Networks and faces that travel with the package are what their manifest says; a change since is told, not refused."
import json

import pytest

from fas_nb.manifest import file_hash
from fas_nb.pack import pack_path, pictured, shipped_folder
from fas_nb.shipped import how_made, learning_curves, shipped
from fas_nb.vocab import Fold, RunSpec, ScoringOptions

pytestmark = pytest.mark.skipif(not (shipped_folder()/"manifest.json").exists(), reason="no networks travel yet")

def test_files_are_those_of_the_manifest():
    folder, networks = shipped_folder(), shipped()
    assert {s.name: s.sha256 for s in networks.values()} == {
        s.name: file_hash(folder/s.name) for s in networks.values()}
    assert sum(p.stat().st_size for p in folder.iterdir()) < 25e6            # networks 15 MB, faces 10 MB
    assert {p.name for p in folder.glob("*.safetensors")} == {s.name for s in networks.values()} | {
        "detector.safetensors"}

def test_each_network_has_the_key_that_training_would_give_it():
    for (protocol, variant, fold, seed), network in shipped().items():
        nothing = Fold(*protocol.split("/"), fold, (), (), ())
        own = RunSpec(nothing, "full", *[None]*3, ScoringOptions(), seed, "", "", "")
        assert network.taking(own).network_key() == network.key, (protocol, variant, fold)

def test_every_run_of_the_paper_s_tables_has_one_and_a_curve():
    from fas_nb.table_grid import TABLES
    wanted = {(p, v) for t in (1, 2, 3, 4, 5) for p in TABLES[t].protocols for v in TABLES[t].variants}
    assert wanted <= {(protocol, variant) for protocol, variant, *_ in shipped()}
    curves = learning_curves().groupby("key")["dev AUC"].count()
    assert all(curves[s.key[:12]] > 3 for s in shipped().values())

def test_the_pack_holds_pictures_of_dev_and_test():
    assert pack_path().stat().st_size < 10e6
    assert set(pictured()) == {"wmca", "oulu_npu", "casia_fasd", "replay_attack"}
    assert all(len(ids) >= 100 for ids in pictured().values())

def test_the_manifest_names_no_place_of_a_machine():
    text = (shipped_folder()/"manifest.json").read_text()
    assert "/home/" not in text and "/root" not in text and "/tmp" not in text
    assert how_made()["core hours"] > 0 and json.loads(text)["networks"]
