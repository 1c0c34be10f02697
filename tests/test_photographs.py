"Masks of two free photographs against outlines that were drawn by hand (`hand_outlines.json`)."
import json

import matplotlib.cbook
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from skimage.data import astronaut

HAND = json.loads((ROOT/"tests/hand_outlines.json").read_text())
FACE = (1, 2, 3, 4, 5, 6, 7, 11)   # regions of skin and of all that is on it
HAIR = (10,)

def photograph(name:str) -> np.ndarray:
    if name == "Eileen Collins": return astronaut()
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        return np.asarray(Image.open(file).convert("RGB"))

@pytest.mark.parametrize("name", HAND)
def test_masks_agree_with_a_hand(name):
    "What is promised of photographs: .90 of the face, .75 of the hair."
    from fas_nb.landmarks import detect_landmarks, face_crop
    from fas_nb.outlines import polygon_mask
    from fas_nb.regions import segment
    from fas_nb.sam_masks import load_segmenter
    image = photograph(name)
    [face] = detect_landmarks(image)
    x, y, side = HAND[name]["window"]
    crop, scale, offset = face_crop(image, np.float32([x, y, x + side, y + side]), 256, 1.)
    regions = segment(crop, face.moved(scale, offset), load_segmenter("face_sam_tiny")).regions
    for part, ids, least in (("face", FACE, .90), ("hair", HAIR, .75)):
        if part not in HAND[name]: continue
        drawn, found = polygon_mask(np.float64(HAND[name][part]), crop.shape[:2]), np.isin(regions, ids)
        assert (drawn & found).sum()/(drawn | found).sum() >= least, (name, part)
