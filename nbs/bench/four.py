"""What several notebooks here share: pictures with twice the demo's side, and rendered data with more presentations than the demo's to train on."""
from dataclasses import replace
from pathlib import Path

from fas_nb.synthetic import RENDER_PROFILES, render_dataset

TRAINING = dict(size=48, batch=24, lr=.008)   # for `training.…`; everything else is the demo's
DEMO = RENDER_PROFILES["demo"]
MORE = {"wmca": replace(DEMO, name="four", subjects=DEMO.subjects | {"wmca": (20, 8, 8)}, wmca={s: (4*train, 2*dev, test) for s, (train, dev, test) in DEMO.wmca.items()}),
        "oulu_npu": replace(DEMO, name="twice", alternate=False)}   # each person with every phone in every session

def render_more(
    layout:str="wmca",    # key of `MORE`
    folder:str|Path="",   # empty: `data/four` of the project
    workers:int=2,        # processes
) -> Path:
    "The folder with the larger data set, rendered where it is missing."
    folder = Path(folder or Path(__file__).resolve().parents[2]/"data/four")
    render_dataset(layout, folder, MORE[layout], workers=workers, progress=False)
    return folder

def overrides(**training):
    "Fields of a profile for `TRAINING`, some of them replaced."
    training = TRAINING | training
    return {f"training.{k}": str(v) for k, v in training.items()} | {"scoring.size": str(training["size"])}
