"Tiny data sets in the real layouts, every file different; each is whole, its only finding that it is not real."
import json
from pathlib import Path

import av, h5py
import numpy as np

from fas_nb.datasets import MARKER
from fas_nb.layouts import WMCA
from fas_nb.synthetic import OULU_PROTOCOLS, oulu_members

FRAMES = 12
SPECIES = {"bona_fide": ("bonafide", 0, 0), "prints": ("attack/2D/prints", 3, 1), "replay": ("attack/2D/replay", 4, 2),
           # list's word, type, instrument
           "fakehead": ("attack/3D/fakehead", 2, 3), "glasses": ("attack/3D/glasses", 1, 15)}

def pictures(seed, width, height, frames=FRAMES, color=(170, 130, 110)):
    "uint8 [frames, h, w, 3] RGB: a plain colour of skin with a patch that tells the file."
    images = np.full((frames, height, width, 3), color, np.uint8)
    images[:, :height//4, :width//4] = np.random.default_rng(seed).integers(0, 256, 3)
    images[:, -2:, -2:] = seed % 256
    return images

def video(path, images):
    path = Path(path); path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = *images.shape[1:3], "yuvj444p"
        stream.codec_context.qmin = stream.codec_context.qmax = 2
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode())

def text(path, lines):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
def mark(root, counts): (root/MARKER).write_text(json.dumps(dict(rendered=True, counts=counts)))

def oulu_npu(root, phones=(1, 2)):
    videos = {}
    for split, user in (("Train", 1), ("Dev", 21), ("Test", 36)):
        videos[split] = [(phone, session, user, file) for phone in phones for session in (1, 2, 3)
                         for file in range(1, 6)]
        for i, (phone, session, _, file) in enumerate(videos[split]):
            stem = root/f"{split}_files/{phone}_{session}_{user:02}_{file}"
            video(f"{stem}.avi", pictures(100*user + i, 18, 32))
            text(f"{stem}.txt", [f"{k},6,12,12,12" for k in range(FRAMES)])
        for name in (p for p in OULU_PROTOCOLS if len(p) == 1 or int(p[2]) in phones):
            label = lambda file: "+1" if file == 1 else "-2" if split == "Test" and file > 3 else "-1"
            text(root/f"Protocols/Protocol_{name[0]}/{split}{name[1:]}.txt",
                 [f"{label(f)},{a}_{b}_{u:02}_{f}" for a, b, u, f in oulu_members(name, split, videos[split])])
    n = 3*len(phones)
    mark(root, {split: dict(bona_fide=n, prints=2*n, replay=2*n) for split in videos})

def casia_fasd(root):
    for split, clients in (("train", 4), ("test", 2)):
        for client in range(1, clients + 1):
            for i, stem in enumerate((*"12345678", *(f"HR_{i}" for i in range(1, 5)))):
                size = (24, 16) if stem in "1357" else (16, 24)
                video(root/f"{split}_release/{client}/{stem}.avi",
                      pictures(1000*(split == "test") + 20*client + i, *size))
    mark(root, {split: dict.fromkeys(("bona_fide", "warped", "cut", "replay"), n)
                for split, n in (("train", 12), ("test", 6))})

def replay_attack(root):
    shown = [("print", "highdef_photo"), ("mobile", "mobile_photo"), ("mobile", "mobile_video"),
             ("highdef", "highdef_photo"), ("highdef", "highdef_video")]
    for split, client in (("train", 1), ("devel", 5), ("test", 9)):
        who = f"client{client:03}_session01"
        names = [f"real/{who}_webcam_authenticate_{light}_{take}" for light in ("controlled", "adverse")
                 for take in (1, 2)]
        names += [f"attack/{support}/attack_{device}_{who}_{shot}_{light}" for support in ("fixed", "hand")
                  for light in ("controlled", "adverse") for device, shot in shown]
        for i, name in enumerate(names):
            video(root/f"{split}/{name}.mov", pictures(100*client + i, 32, 24))
            text(root/f"face-locations/{split}/{name}.face",
                 [f"{k} 8 6 16 {12 + i % 2}" for k in range(FRAMES) if k != 3])
    mark(root, {split: dict(bona_fide=4, prints=4, replay=16) for split in ("train", "devel", "test")})

def msu_mfsd(root):
    for split, clients in (("train", (2, 11, 12)), ("test", (13, 14))):
        text(root/f"{split}_sub_list.txt", [f"{c:02}" for c in clients])
        for client in clients:
            for camera, suffix in (("android", "mp4"), ("laptop", "mov")):
                for i, name in enumerate(("real", "ipad_video", "iphone_video", "printed_photo")):
                    kind, instrument = ("real", "") if name == "real" else ("attack", f"_{name}")
                    stem = root/f"scene01/{kind}/{kind}_client{client:03}_{camera}_SD{instrument}_scene01"
                    video(f"{stem}.{suffix}", pictures(50*client + i + 10*(camera == "laptop"), 24, 16))
                    text(f"{stem}.face", [f"{k},6,4,18,12,14,7,9,7" for k in range(FRAMES)])
    mark(root, {split: dict(bona_fide=2*n, prints=2*n, replay=4*n) for split, n in (("train", 3), ("test", 2))})

def recording(path, seed=0, frames=FRAMES, color=(170, 130, 110), depth=None, times=None, depth_times=None,
              markers=(0, 0, 15, 0, 15, 23, 0, 23)):
    "A raw file of WMCA, portrait."
    path.parent.mkdir(parents=True, exist_ok=True)
    if depth is None: depth = (2500 + seed + np.arange(frames*24*16).reshape(frames, 24, 16) % 300).astype(np.uint16)
    with h5py.File(path, "w") as file:
        file[WMCA.color_stream], file[WMCA.depth_stream] = pictures(seed, 16, 24, frames, color)[..., ::-1], depth
        for name, t in ((WMCA.color_stream, times), (WMCA.depth_stream, depth_times)):
            file[name].attrs["timestamps"] = 33*np.arange(len(file[name])) if t is None else t
            if markers: file[name].attrs["markers"] = markers

def crops(path, seed=0, planes=4, frames=FRAMES, frame_container=False):
    "A preprocessed file of WMCA."
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.concatenate([pictures(seed, 16, 16, frames),
                            (50 + np.arange(frames*256).reshape(frames, 16, 16, 1) % 150).astype(np.uint8)],
                           -1)[..., :planes].transpose(0, 3, 1, 2)
    with h5py.File(path, "w") as file:
        if not frame_container: file["data"] = image
        else:
            for i, crop in enumerate(image): file[f"Frame_{i}/array"] = crop

def wmca(root, write=recording, presenter="{:03}"):
    rows = []
    for client, fold in enumerate(("train", "train", "dev", "dev", "eval", "eval"), 1):
        for species, (kind, number, pai) in SPECIES.items():
            who = "000" if species == "bona_fide" else presenter.format(100 + client)
            inside = f"face-station/17.01.18/{client:03}_01_{who}_{number}_{pai:02}"
            write(root/f"{inside}.h5", seed=len(rows))
            face = dict(topleft=[6, 4], bottomright=[18, 12], reye=[10, 6], leye=[10, 10])
            text(root.parent/f"annotations/{inside}.json",
                 [json.dumps({str(k): face for k in range(FRAMES) if k != 5})])
            rows.append((species, fold, f"{inside},{int(number > 0)},{kind},{fold}"))
    for name in ("grandtest", *(f"LOO_{s}" for s in SPECIES if s != "bona_fide")):
        keep = [line for species, fold, line in rows if name == "grandtest" or species == "bona_fide"
                or (species == name[4:]) == (fold == "eval")]
        text(root/f"protocols/PROTOCOL-{name}.csv", keep)
    mark(root, {split: dict.fromkeys(SPECIES, 2) for split in ("train", "dev", "eval")})

def table(root):
    lines = ["path,species,subject,split"]
    for split, people in (("train", 3), ("dev", 1), ("test", 2)):
        for i in range(people):
            for species in ("bona_fide", "replay"):
                name = f"files/{split}{i}_{species}.avi"
                video(root/name, pictures(len(lines), 24, 16))
                lines.append(f"{name},{species},{split}{i},{split}")
    text(root/"table.csv", lines)

TREES = dict(oulu_npu=oulu_npu, casia_fasd=casia_fasd, replay_attack=replay_attack, msu_mfsd=msu_mfsd,
             wmca=wmca, table=table)
