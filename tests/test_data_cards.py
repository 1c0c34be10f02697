"Every data set that can be read has its card, and the card finds the files that the reader finds."
import hashlib, json, re
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest

from fas_nb.heads import NAMESPACES, TRAITS, head_bank, head_ids
from fas_nb.layouts import LAYOUTS

CARDS = Path(__file__).parent.parent/"data_cards"
EXAMPLES = {  # two names of each data set: a bona fide presentation and an attack
    "wmca": ("face-station/17.01.18/035_01_000_0_00.h5", "face-station/17.01.18/530_03_001_2_18.h5"),
    "oulu_npu": ("Train_files/1_1_01_1.avi", "Test_files/6_3_55_5.avi"),
    "casia_fasd": ("train_release/1/HR_1.avi", "test_release/30/8.avi"),
    "msu_mfsd": ("scene01/real/real_client001_android_SD_scene01.mp4",
                 "scene01/attack/attack_client051_laptop_SD_printed_photo_scene01.mov"),
    "replay_attack": ("devel/real/client003_session01_webcam_authenticate_adverse_1.mov",
                      "test/attack/hand/attack_print_client009_session01_highdef_photo_controlled.mov")}
CARDED = [name for name in LAYOUTS if name != "table"]   # files of one's own have no card of ours
ROWS = ("creator / distributor", "link", "access", "licence", "consent", "people", "recorded", "modality", "sensors",
        "sensitive", "known bias", "limits", "splits",
        "known defects", "used for", "cite", "sources")
REQUIRED = ("name", "description", "license", "citeAs", "creator", "url", "rai:dataCollection",
            "rai:personalSensitiveInformation",
            "rai:dataUseCases", "rai:dataLimitations", "rai:dataBiases", "rai:dataReleaseMaintenancePlan")

@pytest.mark.parametrize("name", [*CARDED, "rendered"])
def test_card_is_complete(name):
    card = json.loads((CARDS/f"{name}.json").read_text())
    assert card["name"] == name and card["isLiveDataset"] is False
    assert not [key for key in REQUIRED if not card.get(key)]
    assert all(part["@type"] == "cr:FileSet"
               for part in card["distribution"]), "nothing is distributed: no file object, no address of one"
    assert "contentUrl" not in json.dumps(card)
    readable = (CARDS/f"{name}.md").read_text()
    assert f"({name}.json)" in readable and card["citeAs"] in readable

@pytest.mark.parametrize("name", CARDED)
def test_card_finds_what_the_reader_finds(name):
    card = json.loads((CARDS/f"{name}.json").read_text())
    globs = [g for part in card["distribution"]
             for g in ([part["includes"]] if isinstance(part["includes"], str) else part["includes"])]
    for path in EXAMPLES[name]:
        assert LAYOUTS[name].grammar.fullmatch(str(Path(path).with_suffix("")))
        assert any(fnmatch(path, g) and path.count("/") == g.count("/") for g in globs), f"{path} is in none of {globs}"

@pytest.mark.parametrize("name", [*CARDED, "rendered"])
def test_card_is_valid_croissant(name):
    import mlcroissant
    metadata = mlcroissant.Dataset(jsonld=CARDS/f"{name}.json").metadata
    assert (metadata.name == name and not metadata.issues.errors
            and not metadata.issues.warnings), metadata.issues.report()

def test_a_broken_card_is_refused(tmp_path):
    import mlcroissant
    card = json.loads((CARDS/"wmca.json").read_text()); del card["distribution"][0]["includes"]
    (tmp_path/"card.json").write_text(json.dumps(card))
    with pytest.raises(mlcroissant.ValidationError): mlcroissant.Dataset(jsonld=tmp_path/"card.json")

@pytest.mark.parametrize("name", CARDED)
def test_page_and_card_say_the_same(name):
    card, page = json.loads((CARDS/f"{name}.json").read_text()), (CARDS/f"{name}.md").read_text()
    rows = dict(line.strip("| ").split(" | ", 1) for line in page.splitlines() if line.startswith("| ")
                and " | " in line.strip("| "))
    assert list(rows) == list(ROWS)
    whole = json.dumps(card, ensure_ascii=False)
    for row in ("creator / distributor", "licence", "limits", "splits", "known defects", "known bias", "used for",
                "cite", "sources", "modality", "sensors"):
        assert rows[row].removesuffix(".") in whole, f"{row}: {rows[row]}"
    assert card["url"] in rows["link"]

@pytest.mark.parametrize("name", NAMESPACES)
def test_card_of_rendered_people_counts_them(name):
    traits = dict(zip(TRAITS, head_bank().traits[head_ids(name)].T))
    shares = np.stack([traits[a] for a in ("african", "asian", "caucasian")])
    counts = [NAMESPACES[name], *np.bincount(shares.argmax(0), minlength=3), (traits["gender"] > .5).sum()]
    row = f"| {name} | {' | '.join(map(str, counts))} | {np.median(traits['age']):.2f} |"
    assert row in (CARDS/"rendered.md").read_text(), row

def test_card_of_face_models_names_the_files():
    "Each network that is shipped stands in its card with its hash, and so does the file that it was made from."
    from fas_nb.face_models import FACE_MODELS
    card, made_by = (CARDS/"face_models.md").read_text(), (CARDS.parent/"nbs/bench/tflite_to_onnx.py").read_text()
    for name, digest in FACE_MODELS.items():
        assert f"`{name}.onnx` {digest}" in card
        assert hashlib.sha256((CARDS.parent/f"fas_nb/assets/{name}.onnx").read_bytes()).hexdigest() == digest
        source = re.search(rf'"{name}": \("\w+/([\w.]+)",\s+"(\w+)"', made_by)
        assert source[1] in card and source[2] in card
