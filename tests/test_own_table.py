"A user's own pictures, outside any checkout: what a table may get wrong, and the way from masks to a verdict."
import csv, os
from pathlib import Path

import numpy as np
import pytest
from conftest import call
from PIL import Image
from skimage.data import astronaut, coffee

from fas_nb.check import check_dataset
from fas_nb.landmarks import face_box
from fas_nb.vocab import InputError

PEOPLE = {"train": 4, "dev": 2, "test": 2}

def own_table(folder:Path, change=lambda rows: rows, columns=("path", "species", "subject", "split")) -> Path:
    "A table of one portrait in many shades: half of it is called a print."
    (folder/"table/pics").mkdir(parents=True)
    rows, seed = [], 0
    for split, people in PEOPLE.items():
        for person in range(people):
            for species in ("bona_fide", "prints"):
                seed += 1
                picture = astronaut()[:320, 60:380] + np.random.default_rng(seed).normal(0, 8, (320, 320, 3)) - 40*(
                    species == "prints")
                Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(folder/f"table/pics/{seed}.jpg")
                rows.append(dict(path=f"pics/{seed}.jpg", species=species, subject=f"{split}{person}", split=split))
    with (folder/"table/table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader(); writer.writerows(change(rows))
    return folder/"table/table.csv"

def every(rows, **new): return [dict(row, **{k: v(row) if callable(v) else v for k, v in new.items()}) for row in rows]

# mistake -> the table that makes it, what the validator says of it, and what the command to train says
MISTAKES = {
    "a species that is none": (lambda rows: every(rows, species=lambda r: r["species"].removesuffix("s")),
                               "is prints meant?", "is prints meant?"),
    "another word for bona fide": (
        lambda rows: every(rows, species=lambda r: {"bona_fide": "live"}.get(r["species"], r["species"])),
        "is bona_fide meant?", "is bona_fide meant?"),
    "another word for a split": (lambda rows: every(rows,
                                                    split=lambda r: {"dev": "validation"}.get(r["split"], r["split"])),
                                 "is dev meant?", "is dev meant?"),
    "no split": (lambda rows: every(rows, split=""), "lines have no split", "lines have no split"),
    "one class in dev": (lambda rows: [r for r in rows if r["split"] != "dev" or r["species"] == "prints"],
                         "dev holds only attacks (2)", "dev holds only attacks"),
    "no test": (lambda rows: [r for r in rows if r["split"] != "test"], "test holds no presentation",
                "give lines of both classes the split test"),
    "one person in two splits": (lambda rows: every(rows, subject=lambda r: r["subject"].replace("test0", "train0")),
                                 "found train0", ""),
    "a file that is not there": (lambda rows: rows + [dict(rows[0], path="gone.jpg", subject="gone")],
                                 "correct the paths", "gone.jpg is not on disk; left out"),
    "a line without a file": (lambda rows: rows + [dict(rows[0], path="")], "names no file",
                              "names no file; fill the column path; left out"),
    "a file twice": (lambda rows: rows + rows[:1], "keep one line", ""),
    "lines that contradict": (lambda rows: rows + [dict(rows[0], species="replay")], "has species bona_fide and replay",
                              "bona_fide and replay")}

@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_of_a_table(tmp_path, mistake):
    change, says, _ = MISTAKES[mistake]
    told = str(check_dataset("table", own_table(tmp_path, change), protocol="own", progress=False))
    assert says in told and told.count(says) <= 2, told
    # words for licensed data sets
    for word in ("release", "unpack", "distributor", "expected -", "number "): assert word not in told, told

@pytest.mark.parametrize("mistake", [m for m, (_, _, says) in MISTAKES.items() if says])
def test_what_is_wrong_is_said_before_training(tmp_path, mistake):
    from fas_nb.ablations import get_profile, prepare
    change, _, says = MISTAKES[mistake]
    own_table(tmp_path, change)
    profile = get_profile("smoke", {"segmenter": "polygon"})
    try: told = " ".join(prepare(profile, ["table/own"], tmp_path, tmp_path/"runs", workers=1, progress=False).notes)
    except InputError as error: told = str(error); assert error.code in (1, 2) and not (tmp_path/"runs").exists()
    assert says in told and "\n" not in told, told

def test_what_shows_no_face_is_told(tmp_path):
    from fas_nb.ablations import get_profile, prepare
    path = own_table(tmp_path, lambda rows: rows + [dict(rows[0], path="pics/cup.jpg", subject="cup")])
    Image.fromarray(coffee()).save(tmp_path/"table/pics/cup.jpg")
    report = check_dataset("table", path, deep=.01, progress=False, finds=face_box)
    assert [(f.id, f.paths) for f in report.findings
            if f.id == "F06"] == [("F06", ("pics/cup.jpg",))] and report.opened == 17
    data = prepare(get_profile("smoke", {"segmenter": "polygon"}), ["table/own"], tmp_path, tmp_path/"runs", workers=1,
                   progress=False)
    assert len(data.notes) == 1 and "no face was found in 1 presentation (cup.jpg)" in data.notes[0]
    cup = next(i for i in data.presentations if i.endswith("cup.jpg"))
    assert cup in data.folds("table/own")[0].train
    without = prepare(get_profile("smoke", {"segmenter": "polygon", "train_faceless": "false"}), ["table/own"],
                      tmp_path, tmp_path/"runs", workers=1, progress=False)
    kept = without.folds("table/own")[0]
    assert "they train nothing" in without.notes[0] and set(data.folds("table/own")[0].train) - set(kept.train) == {cup}
    assert (kept.dev, kept.test) == (data.folds("table/own")[0].dev, data.folds("table/own")[0].test)

def test_look_mend_run_judge(tmp_path):
    """The lines of the README, in a plain folder: a map that was mended makes another run, and nothing is written
    elsewhere."""
    own_table(tmp_path/"data")
    def run(*command): return call(*command, "--quiet", "--workers", "1", cwd=tmp_path)
    own = ("--profile", "smoke", "--set", "training.steps=4", "--set", "segmenter=polygon")
    first = run("fas_annotate", "table", "data/table/table.csv", "--profile", "smoke", "--segmenter", "polygon")
    assert (first.returncode == 0 and "16 presentations: 16 annotated" in first.stdout
            and "look at first: runs/stores/table-" in first.stdout), first.stdout + first.stderr
    store = next((tmp_path/"runs/stores").glob("table-*"))/"annotations"
    before = run("fas_run", "--protocol", "table/own", *own, "--data-root", "data")
    assert before.returncode == 0, before.stderr
    shown = next((store/"regions").glob("*_1.jpg-*/00000.png"))
    # skin becomes hair
    mended = np.array(Image.open(shown)); assert (mended == 1).sum() > 100; mended[mended == 1] = 10
    (tmp_path/"mended"/shown.parent.name).mkdir(parents=True)
    # at three times the size
    Image.fromarray(mended.repeat(3, 0).repeat(3, 1)).save(tmp_path/"mended"/shown.parent.name/shown.name)
    taken = run("fas_annotate", "table", "data/table/table.csv", "--profile", "smoke", "--segmenter", "polygon",
                "--corrections", "mended")
    assert taken.returncode == 0 and "1 region map corrected" in taken.stdout and (
        np.array(Image.open(shown)) == mended).all(), taken.stdout + taken.stderr
    after = run("fas_run", "--protocol", "table/own", *own, "--data-root", "data")
    key = {done: done.stdout.split()[0] for done in (before, after)}
    assert after.returncode == 0 and key[before] != key[after], "a mended map makes another run"
    model = next(line.removeprefix("model: ") for line in after.stdout.splitlines() if line.startswith("model: "))
    command = next(line.removeprefix("judge a picture: ") for line in after.stdout.splitlines()
                   if line.startswith("judge a picture: "))
    assert (tmp_path/model).is_file() and command == f"fas_predict photo.jpg --model runs/{key[after]}"
    Image.fromarray(astronaut()[:320, 60:380]).save(tmp_path/"photo.jpg")
    verdicts = [call("fas_predict", "photo.jpg", "--model", name, cwd=tmp_path)
                for name in (f"runs/{key[after]}", key[after][:6], model)]
    assert all(v.returncode == 0
               for v in verdicts) and len({v.stdout for v in verdicts}) == 1, [v.stderr for v in verdicts]
    unknown = call("fas_predict", "photo.jpg", "--model", "runs/abcdef123456", cwd=tmp_path)
    assert unknown.returncode == 2 and "no finished run in runs begins with abcdef123456" in unknown.stderr
    nowhere = call("fas_predict", "photo.jpg", "--model", "runs/nope", cwd=tmp_path)
    assert (nowhere.returncode == 2 and "there is no model runs/nope" in nowhere.stderr
            and "fas_run --list" in nowhere.stderr)
    shown = call("fas_predict", "photo.jpg", "--model", key[after][:6], "--overlay", "o"*300, cwd=tmp_path)
    assert (shown.returncode == 1 and "is too long, file systems take 255 bytes" in shown.stderr
            and "Errno" not in shown.stderr), shown.stderr
    assert sorted(os.listdir(tmp_path)) == ["data", "mended", "photo.jpg", "runs"]
