"""Fail when notebooks and package disagree, a notebook is not clean, or README.md is not what index.ipynb says.

    python tests/in_sync.py                  check
    python tests/in_sync.py --write-readme   write README.md from nbs/index.ipynb
"""
import json, os, re, shutil, subprocess, sys, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

def readme() -> str:
    "README.md as `nbs/index.ipynb` gives it; pictures keep their place under `nbs/images`."
    import nbformat
    from nbconvert import MarkdownExporter
    notebook = nbformat.read(ROOT/"nbs/index.ipynb", 4)
    notebook.cells = [c for c in notebook.cells if not c.source.startswith("#| hide")]
    for cell in notebook.cells:   # of a cell that is not to be echoed, only what it says is shown
        if cell.source.startswith("#| echo: false"):
            cell.cell_type, cell.source = "markdown", "\n".join("".join(o.data["text/markdown"]) for o in cell.outputs)
    body, _ = MarkdownExporter().from_notebook_node(notebook)
    body = re.sub(r"\]\((images/|reports\)|\w+\.ipynb)", r"](nbs/\1", body).replace("](../", "](")
    lines = [line.rstrip() for line in body.splitlines()]
    return "\n".join(line for i, line in enumerate(lines) if line or (i and lines[i - 1])).strip() + "\n"

def differences(a:Path, b:Path, pattern:str) -> list[str]:
    "Files that differ or exist on one side only."
    names = {str(p.relative_to(d)) for d in (a, b) for p in d.rglob(pattern) if ".ipynb_checkpoints" not in p.parts}
    read = lambda p: p.read_bytes() if p.exists() else None
    return sorted(n for n in names if read(a/n) != read(b/n))

def problems(root:Path=ROOT) -> list[str]:
    "What is not in sync, a line each."
    found = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)/"project"
        shutil.copytree(root, copy, ignore=shutil.ignore_patterns(".git", ".venv*", "data", "runs", "*.egg-info",
                                                                  "__pycache__", "build"))
        tools = Path(sys.executable).parent
        call = lambda tool: subprocess.run([str(tools/tool)], cwd=copy, check=True,
                                           env=os.environ | {"PYTHONPATH": str(copy)}, capture_output=True)
        call("nbdev_export")
        found += [f"fas_nb/{n} is not what its notebook exports: edit the notebook, then run nbdev_export"
                  for n in differences(root/"fas_nb", copy/"fas_nb", "*.py")]
        call("nbdev_clean")
        found += [f"nbs/{n} is not clean: run nbdev_clean" for n in differences(root/"nbs", copy/"nbs", "*.ipynb")]
    for path in sorted((root/"nbs").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        if any(o["output_type"] == "error" for c in cells for o in c.get("outputs", [])):
            found.append(f"nbs/{path.name} was saved with an error")
        if path.stat().st_size > 1_000_000:
            found.append(f"nbs/{path.name} has {path.stat().st_size/1e6:.1f} MB: make its pictures smaller")
    return found

if __name__ == "__main__":
    if "--write-readme" in sys.argv: (ROOT/"README.md").write_text(readme(), encoding="utf-8")
    found = problems()
    if (ROOT/"README.md").read_text(encoding="utf-8") != readme():
        found.append("README.md is not what nbs/index.ipynb says: run make readme")
    print("\n".join(found) or "notebooks, package and README are in sync and clean")
    sys.exit(bool(found))
