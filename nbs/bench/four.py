"""What several notebooks here share: pictures with twice the demo's side, and rendered WMCA with four times the presentations of the demo to train on."""
from dataclasses import replace
from pathlib import Path

from fas_nb.synthetic import RENDER_PROFILES, render_dataset

TRAINING = dict(size=48, batch=24, lr=.008)   # for `training.…`; everything else is the demo's

def render_four(
    folder:str|Path="",   # empty: `data/four` of the project
    workers:int=2,        # processes
) -> Path:
    "The folder with the larger WMCA, rendered where it is missing."
    folder, demo = Path(folder or Path(__file__).resolve().parents[2]/"data/four"), RENDER_PROFILES["demo"]
    four = replace(demo, name="four", subjects=demo.subjects | {"wmca": (20, 8, 8)}, wmca={s: (4*train, 2*dev, test) for s, (train, dev, test) in demo.wmca.items()})
    render_dataset("wmca", folder, four, workers=workers, progress=False)
    return folder

def overrides(**training):
    "Fields of a profile for `TRAINING`, some of them replaced."
    training = TRAINING | training
    return {f"training.{k}": str(v) for k, v in training.items()} | {"scoring.size": str(training["size"])}
