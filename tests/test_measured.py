"What notebooks show of long measurements is what `nbs/bench` keeps."
import json, re

import pytest
from conftest import ROOT
from fas_nb.manifest import measured

def shown():
    "Cells that show a measurement: notebook, its name, what the cell printed."
    for path in sorted((ROOT/"nbs").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for name in re.findall(r'= measured\("(\w+)"\)', "".join(cell["source"])):
                yield path.name, name, "".join("".join(o.get("text", "")) for o in cell["outputs"])

@pytest.mark.parametrize("notebook, name, said", [pytest.param(*s, id=f"{s[0]}-{s[1]}") for s in shown()])
def test_shown_is_stored(notebook, name, said):
    "The line beside the figures names their digest, and says whether the code is another by now."
    if not (ROOT/f"nbs/bench/results/{name}.json").exists(): assert "not yet measured" in said; return
    note = measured(name, ROOT/"nbs/bench/results")[1]
    assert note + "\n" in said, f"{notebook} shows {said.strip()!r}, but it is {note!r}; run the notebook again"

def test_all_notebooks_of_the_model_show_theirs():
    assert {(notebook[:2], name) for notebook, name, _ in shown()} >= {("30", "mcrea_alignment"), ("31", "model_speed"),
                                                                       ("33", "precision"), ("33", "convergence")}
