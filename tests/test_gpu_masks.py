"""Masks of a batch are those of one picture at a time, and masks of a GPU in float32 those of the CPU. Where there is
no GPU, the CPU takes the same path."""
from functools import partial

import numpy as np
import pytest
import torch

from fas_nb.devices import all_digits
from fas_nb.landmarks import detect_landmarks, face_crop
from fas_nb.sam_masks import SamSegmenter, load_segmenter

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))]
PARTS = ("left_eye", "right_eye", "left_brow", "right_brow", "mouth", "nose", "hair", "left_ear", "right_ear", "skin",
         "neck")

def small_sam():
    "SAM's own parts with random values, always the same."
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Sam(ImageEncoderViT(img_size=256, patch_size=16, embed_dim=48, depth=2, num_heads=3, out_chans=32,
                                   window_size=8, use_rel_pos=True, global_attn_indexes=(1,),
                                   norm_layer=partial(torch.nn.LayerNorm, eps=1e-6)),
                   PromptEncoder(embed_dim=32, image_embedding_size=(16, 16), input_image_size=(256, 256),
                                 mask_in_chans=16),
                   MaskDecoder(transformer_dim=32, transformer=TwoWayTransformer(2, 32, 8, 64),
                               iou_head_hidden_dim=32)).eval()

def random_sam(device, half=False):
    "As `load_sam` makes one of its weights."
    return SamSegmenter(all_digits(small_sam()), "random", device=device, half=half)

def face_sam_tiny(device, half=False):
    return load_segmenter("face_sam_tiny", device=device, precision="half" if half else "full")

@pytest.fixture(scope="module")
def faces():
    "One face in four windows, some of whose prompts lie outside: pictures and landmarks."
    from skimage.data import astronaut
    image = astronaut()
    [whole] = detect_landmarks(image)
    cut = [face_crop(image, whole.box, 192, factor) for factor in (1.3, 1.7, 2.1, 2.5)]
    return [view for view, *_ in cut], [whole.moved(*where) for _, *where in cut]

def masks_of(found): return np.stack([mask for mask, _ in found.values()])

def agreement(a, b): return min((masks_of(x) & masks_of(y)).sum()/(masks_of(x) | masks_of(y)).sum()
                                for x, y in zip(a, b, strict=True))

def one_by_one(segmenter, views, seen):
    found = []
    for view, face in zip(views, seen):
        segmenter.set_image(view)
        found.append(segmenter.predict_face(face, PARTS, "bona_fide"))
    return found

def at_once(segmenter, views, seen, batch):
    segmenter.batch = batch
    return list(segmenter.predict_faces(views, seen, PARTS, "bona_fide"))

@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make", [random_sam, face_sam_tiny])
def test_in_float32_masks_are_those_of_the_cpu_one_picture_at_a_time(make, device, faces):
    wanted, tool = one_by_one(make("cpu"), *faces), make(device)
    assert not tool.half and all(masks_of(found).any() for found in wanted)
    assert agreement(wanted, one_by_one(tool, *faces)) >= .99
    for batch in (3, 4): assert agreement(wanted, at_once(tool, *faces, batch)) >= .99, batch

@pytest.mark.parametrize("device", DEVICES)
def test_half_precision_moves_borders_and_no_more(device, faces):
    wanted, tool = one_by_one(face_sam_tiny("cpu"), *faces), face_sam_tiny(device, half=True)
    found = at_once(tool, *faces, 2)
    assert tool.half and .95 < agreement(wanted, found) < 1

@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_is_taken_and_plans_for_what_its_workers_share():
    alone, one_of_many = (load_segmenter("face_sam_tiny", device="cuda", workers=n) for n in (1, 10_000))
    assert alone.device == "cuda:0" and alone.half and 1 <= one_of_many.batch <= alone.batch == 8

def test_workers_elsewhere_are_asked_what_they_can_do(monkeypatch):
    "A device that this machine lacks is refused by who would do the work, and workers that share GPUs are counted."
    from distributed import LocalCluster
    from fas_nb import parallel
    from fas_nb.devices import asked, where_done
    from fas_nb.vocab import InputError
    monkeypatch.setenv("FAS_NB_PRECISION", "full")
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as cluster:
        there = dict(scheduler=cluster.scheduler_address)
        try:
            monkeypatch.setenv("FAS_NB_DEVICE", "cpu")
            assert where_done(True, **there) == ("cpu", "full")
            monkeypatch.setenv("FAS_NB_DEVICE", "cuda:77")
            said = "device cuda:77.*said by a worker of tcp://"
            with pytest.raises(InputError, match=said): where_done(True, **there)
            assert asked(**there) == dict(device="cuda:77", precision="full", workers=2)
        finally: parallel._client(None, cluster.scheduler_address).close()
