"What no single notebook can check about the others."
import ast, configparser, json, re, shutil, subprocess, sys, zipfile
from importlib import import_module
from pathlib import Path

import pytest
from conftest import BIN, ROOT, call

sys.path.insert(0, str(ROOT/"tests"))
from in_sync import readme

def notebook_number(module:Path): return int(re.search(r"File to edit: \S*?(\d+)_", module.read_text())[1])

NUMBER = {p.stem: notebook_number(p) for p in (ROOT/"fas_nb").glob("[!_]*.py")}
TEMPLATES = sorted((ROOT/"nbs/reports").glob("*.ipynb"))

@pytest.mark.parametrize("name", sorted(NUMBER))
def test_imports_go_down(name):
    for node in ast.walk(ast.parse((ROOT/f"fas_nb/{name}.py").read_text())):
        if not isinstance(node, ast.ImportFrom) or not (node.level or (node.module or "").startswith("fas_nb")):
            continue
        # export makes imports of the top level relative
        inside = (node.module or "").removeprefix("fas_nb").removeprefix(".")
        for target in [inside] if inside else [a.name for a in node.names if a.name in NUMBER]:
            assert NUMBER[target] < NUMBER[name], (
                f"{name}.py line {node.lineno}: notebook {NUMBER[name]:02} imports {target} from {NUMBER[target]:02}; "
                "move what it needs to a lower number")

def own_lines(module):
    "Lines of a module as its notebook says them; the list of its names is made by nbdev."
    text = (ROOT/f"fas_nb/{module}.py").read_text(encoding="utf-8")
    return re.sub(r"^__all__ = \[.*?\]$", "", text, flags=re.S | re.M).splitlines()

def long_lines(lines): return [line.strip() for line in lines if len(line) > 120]

def long_functions(lines):
    found = [n for n in ast.walk(ast.parse("\n".join(lines))) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return [n.name for n in found if n.end_lineno - n.lineno >= 40]

def cell_lines(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [line for c in cells if c["cell_type"] == "code" for line in "".join(c["source"]).splitlines()]

@pytest.mark.parametrize("name", sorted(NUMBER))
def test_rooms_of_one_purpose_and_lines_that_breathe(name):
    "At most 400 lines a module, 120 characters a line, 40 lines a function."
    lines = own_lines(name)
    assert len(lines) <= 400, f"{name} has {len(lines)} lines; give a part with a purpose of its own its own notebook"
    assert not (found := long_lines(lines)), f"{name} has lines over 120 characters: {found[:3]}"
    assert not (found := long_functions(lines)), f"{name}: name the steps of {found}, over 40 lines each"

@pytest.mark.parametrize("path", sorted((ROOT/"nbs").glob("*.ipynb")), ids=lambda p: p.stem)
def test_examples_and_tests_breathe_too(path):
    found = long_lines(cell_lines(path))
    assert not found, f"{path.name} has lines over 120 characters: {found[:3]}"

@pytest.mark.parametrize("path", sorted((ROOT/"tests").glob("*.py")), ids=lambda p: p.stem)
def test_lines_of_tests_breathe(path):
    found = long_lines(path.read_text(encoding="utf-8").splitlines())
    assert not found, f"{path.name} has lines over 120 characters: {found[:3]}"

def test_notebooks_open_without_a_question():
    "JupyterLab asks for a kernel where a notebook names none, and widget state of an old session is dead weight."
    for path in sorted((ROOT/"nbs").rglob("*.ipynb")):
        metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
        assert metadata.get("kernelspec", {}).get("name") == "python3" and "widgets" not in metadata, path.name

MOVED = {   # names that a module gave before parts of it had rooms of their own; their paths keep working
    "sam_masks": "TILT polygon_mask part_outlines Segmenter mend PolygonSegmenter GrabCutSegmenter PartScore "
                 "Segmentation part_order clean_mask segment segment_faces worn_glasses assemble segment_regions "
                 "outline_priors sam_device half_pays gpu_batch CHECKPOINTS Checkpoint face_sam_tiny verify_checkpoint "
                 "fetch_checkpoint best_segmenter",
    "maps": "CROPS MAPS LEGEND AUTOMATIC FAILURES file_mark crop_inputs map_inputs region_png legend_text "
            "read_region_map FrameStore AnnotationStore write_coco fallback_rate Summary withhold import_corrections "
            "contact_sheet extract_frames sensor_crop annotate_dataset outdated fill_stores failed_files without_face "
            "faceless crop_sensor",
    "decision": "Detector save_model run_file load_model recipe describe scorer export_scorer FLAGS COMBINE Verdict "
                "predict show_verdict verdict_sheet media_files passed_over video_frames camera_frames "
                "predict_frames PICTURES VIDEOS is_junk is_picture read_image",
    "datasets": "LAYOUTS SPLIT_WORDS SPECIES_HINTS SPLIT_HINTS Layout dataset_name presentation_of OULU CASIA "
                "ReplayAttack container_of frame_shape WMCA MSU UnknownWord Table count_video_frames declared_frames "
                "look rotation_tag video_frames DECODING WMCA_INSTRUMENTS nearest_frames registration stream_times "
                "usable_face depth_maps depth_reading",
    "landmarks": "MIRROR IBUG68 mean_mesh fit_mean_mesh mesh_in_box from_ibug68 PARTS PROMPTS HALVES "
                 "HALVED INSTRUMENTS Prompt PromptRule part_prompts",
    "vocab": "TRAINING_CHOICES MODEL_CHOICES MCREA_CHOICES ModelOptions TrainingOptions MCREAOptions ScoringOptions "
             "RunSpec",
    "dccdn": "RUNTIMES installed_runtimes needed to_onnx contract Exported export_onnx export_openvino"}
ROOMS = ("manifest", "parallel", "pictures", "tables", "recordings", "layouts", "mean_face", "prompts", "devices",
         "checkpoints", "outlines", "regions", "depth", "store", "annotation", "specs", "runtimes", "detector",
         "verdicts")

@pytest.mark.parametrize("module", MOVED)
def test_old_paths_lead_to_the_same_things(module):
    old, rooms = import_module(f"fas_nb.{module}"), [import_module(f"fas_nb.{room}") for room in ROOMS]
    for name in MOVED[module].split():
        homes = [room for room in rooms if name in room.__all__ and getattr(room, name) is getattr(old, name)]
        assert len(homes) == 1, name
    with pytest.raises(AttributeError, match=f"fas_nb.{module}.*no_such_name"): old.no_such_name

def test_own_code_imports_from_where_a_name_stands():
    from fas_nb.closure import definition
    for path in (*(ROOT/"fas_nb").glob("*.py"), *(ROOT/"tests").glob("*.py")):
        nodes = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.ImportFrom)]
        for module, name in [(n.module.removeprefix("fas_nb."), a.name) for n in nodes if n.module for a in n.names]:
            if module in MOVED: assert definition(f"{module}.{name}") == (module, name), f"{path.name}: {module}.{name}"

LIGHT = ("metrics", "protocols", "datasets", "ablations", "reports", "protocol_page", "cli")

def test_imports_stay_light():
    "Commands answer --help at once: nothing heavy is imported before it is needed."
    heavy = "torch onnxruntime mitsuba distributed segment_anything papermill".split()
    code = "\n".join(f"import fas_nb.{m}; print('{m}', [h for h in {heavy} if h in sys.modules])" for m in LIGHT)
    done = call("python", "-c", f"import sys\n{code}")
    assert done.stdout.splitlines() == [f"{m} []" for m in LIGHT], done.stdout + done.stderr

def test_command_line_imports_nothing():
    done = call("python", "-c",
                "import sys, fas_nb.cli; print([m for m in ('numpy', 'pandas', 'matplotlib') if m in sys.modules])")
    assert done.stdout.strip() in ("[]", "['numpy']"), done.stdout + done.stderr   # the vocabulary needs numpy

def test_imports_print_and_write_nothing(tmp_path):
    "Each module after those with lower numbers, which are all that it may import."
    code = "\n".join(f"import fas_nb.{module}; print('{module}')" for module in sorted(NUMBER, key=NUMBER.get))
    done = call("python", "-c", code, cwd=tmp_path)
    assert (done.returncode, done.stdout.split()) == (0, sorted(NUMBER, key=NUMBER.get)), done.stdout + done.stderr
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_one_parameters_cell(path):
    cells = json.loads(path.read_text())["cells"]
    n = sum("parameters" in c["metadata"].get("tags", []) for c in cells)
    assert n == 1, f"{path.name}: {n} cells tagged 'parameters', expected 1; tag the cell after the imports"

def test_parameters_survive_cleaning_and_take_effect(tmp_path):
    """nbdev_clean removes cell metadata that settings.ini does not allow; papermill would then run with a notebook's
    own values."""
    import nbformat, papermill
    from nbformat.v4 import new_code_cell, new_notebook
    source, cleaned, out = ROOT/"settings.ini", tmp_path/"nbs/t.ipynb", tmp_path/"out.ipynb"
    (tmp_path/"nbs").mkdir()
    (tmp_path/"settings.ini").write_text(source.read_text())
    guard = new_code_cell("from fas_nb.reports import ParameterGuard\nguard = ParameterGuard(globals(), 'theta')")
    parameters = new_code_cell("theta: float = .7", metadata={"tags": ["parameters"]})
    metadata = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    nbformat.write(new_notebook(cells=[guard, parameters, new_code_cell("print(guard.check(globals()))")],
                                metadata=metadata), cleaned)
    assert call("nbdev_clean", "--fname", cleaned, cwd=tmp_path).returncode == 0
    done = papermill.execute_notebook(str(cleaned), str(out), {"theta": .2}, kernel_name="python3", progress_bar=False)
    assert done.cells[-1].outputs[0].text.strip() == "{'theta': 0.2}"
    with pytest.raises(papermill.PapermillExecutionError, match="'thta' is unknown"):
        papermill.execute_notebook(str(cleaned), str(out), {"thta": .2}, kernel_name="python3", progress_bar=False)
    broken = nbformat.read(cleaned, 4)
    for cell in broken.cells: cell.metadata.pop("tags", None)
    nbformat.write(broken, cleaned)
    with pytest.raises(papermill.PapermillExecutionError, match="lost its tag"):
        papermill.execute_notebook(str(cleaned), str(out), {"theta": .2}, kernel_name="python3", progress_bar=False)

@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_unknown_parameter_is_refused(path, tmp_path):
    from fas_nb.reports import InputError, run_notebook
    with pytest.raises(InputError, match="'porfile' is unknown"):
        run_notebook(path.stem, tmp_path/"out.ipynb", {"porfile": "demo"})
    assert not list(tmp_path.iterdir())

def test_readme_is_what_index_says():
    assert (ROOT/"README.md").read_text(encoding="utf-8") == readme(), "run make readme"

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
SYSTEMS = ({"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"},
           {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64", "os_name": "posix"})

@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s["sys_platform"])
def test_lock_holds_every_requirement(python, system):
    from packaging.requirements import Requirement
    config = configparser.ConfigParser(delimiters=["="])
    config.read(ROOT/"settings.ini")
    lines = [l for l in (ROOT/"requirements.lock").read_text().splitlines() if l and not l.startswith("#")]
    assert not [l for l in lines if "://" in l or "@" in l], "the lock names no host"
    there = system | {"python_version": python, "python_full_version": f"{python}.1"}
    found = [q for q in map(Requirement, lines) if q.marker is None or q.marker.evaluate(there)]
    locked = {q.name.lower().replace("_", "-"): q for q in found}
    assert len(locked) == len(found), "one version of each"
    assert all(str(q.specifier).startswith("==") for q in found)
    for key in ("requirements", "synth_requirements", "scale_requirements", "fast_requirements", "dev_requirements"):
        for text in config["DEFAULT"][key].split():
            want = Requirement(text)
            have = locked[want.name.lower().replace("_", "-")]
            assert want.specifier.contains(
                str(have.specifier).lstrip("=")), f"settings.ini asks {want}, the lock has {have}"
    # two would overwrite each other
    assert [n for n in locked if n.startswith("opencv")] == ["opencv-python-headless"]
    assert not {"mediapipe", "jax", "jaxlib"} & set(locked)

def test_caps_that_keep_versions_working_together():
    text = (ROOT/"settings.ini").read_text()
    for cap in ("opencv-python-headless>=4.10,<5", "execnb>=0.1.11,<0.2", "fastcore>=1.7,<2", "nbdev==2.4.14",
                ">=3.11,<3.15",
                "allowed_cell_metadata_keys = tags"):
        assert cap in text, cap

def test_nothing_imports_mediapipe():
    "Its last release with models inside wants an old Python; one bench script runs it in an environment of its own."
    used = re.compile(r"^\s*(?:import|from)\s[^#\n]*\bmediapipe\b", re.M)
    for path in sorted([*(ROOT/"fas_nb").rglob("*.py"), *(ROOT/"tests").glob("*.py"), *(ROOT/"nbs").rglob("*.py"),
                        *(ROOT/"nbs").rglob("*.ipynb")]):
        if path.name == "mediapipe_reference.py" or ".ipynb_checkpoints" in path.parts: continue
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            text = "\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "code")
        assert not used.search(text), f"{path.name}: {used.search(text)[0].strip()}"

def make_python(tmp_path, *names, **variables):
    "What `make setup` would do with the Pythons of a folder, each a file that answers 0 where it fits."
    shutil.copy(ROOT/"Makefile", tmp_path)
    for name, fits in names:
        (tmp_path/name).write_text(f"#!/bin/sh\nexit {int(not fits)}\n"); (tmp_path/name).chmod(0o755)
    for name in ("requirements.lock", "settings.ini", "setup.py", "pyproject.toml"): (tmp_path/name).touch()
    tools = {tool: shutil.which(tool) for tool in ("make", "bash", "sh", "test", "grep", "cat")}
    for tool, path in tools.items(): (tmp_path/tool).exists() or (tmp_path/tool).symlink_to(path)
    done = subprocess.run([tools["make"], "-n", "setup", *(f"{k}={v}" for k, v in variables.items())], cwd=tmp_path,
                          capture_output=True, text=True,
                          env={"PATH": str(tmp_path)})
    return done.stdout + done.stderr

def test_make_takes_the_newest_python_that_works(tmp_path):
    "A version that is there in name only (a pyenv shim, a Python without venv) is passed over."
    said = make_python(tmp_path, ("python3.14", False), ("python3.13", True), ("python3.11", True))
    assert "python3.13 -m venv .venv" in said and "python3.11 -m venv" not in said, said

def test_make_asks_uv_where_no_python_fits(tmp_path):
    said = make_python(tmp_path, ("python3", False))
    assert "venv -q --seed --python '>=3.11,<3.15' .venv" in said and "-m venv .venv" not in said.split(
        "elif")[0].split("then")[1].split("&&")[0], said
    assert 'test -n ""' in said, said

def test_make_installs_without_cuda(tmp_path):
    said = make_python(tmp_path, ("python3.13", True), TORCH="cpu")
    assert "--torch-backend=cpu" in said and "grep -vE '^(nvidia|cuda|triton)' requirements.lock" in said, said
    assert "--torch-backend" not in make_python(tmp_path, ("python3.13", True))

def test_wheel_carries_templates_tables_and_commands(tmp_path):
    done = call("python", "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path,
                ROOT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    for wanted in ("share/fas_nb/reports/protocol.ipynb", "share/fas_nb/reports/table6.ipynb",
                   "share/fas_nb/published/table1_wmca_loo_acer.csv",
                   "fas_nb/assets/page.html", "fas_nb/assets/heads.npz", "fas_nb/assets/face_sam_tiny.safetensors",
                   "fas_nb/assets/face_mesh.onnx"):
        assert any(n.endswith(wanted) for n in names), wanted
    entry = next(n for n in names if n.endswith("entry_points.txt"))
    commands = re.findall(r"^(fas_\w+)", zipfile.ZipFile(next(tmp_path.glob("*.whl"))).read(entry).decode(), re.M)
    assert sorted(commands) == ["fas_annotate", "fas_check", "fas_export", "fas_predict", "fas_reproduce",
                                "fas_run", "fas_synth"]

def test_notebooks_show_no_local_path():
    local = re.compile(r"(?<![\w.:/<])/(?:home|root|work|tmp|Users)/[\w./+-]+")
    for path in sorted((ROOT/"nbs").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts: continue
        for cell in json.loads(path.read_text())["cells"]:
            text = "".join(cell["source"]) + json.dumps([{k: v for k, v in o.get("data", {}).items()
                                                          if k.startswith("text")} | {"t": o.get("text", "")}
                                                         for o in cell.get("outputs", [])])
            assert not local.search(text), f"{path.name}: {local.search(text)[0]}"

def test_make_clean_spares_data_that_was_not_rendered_here(tmp_path):
    shutil.copy(ROOT/"Makefile", tmp_path)
    for name in ("data/wmca/face.h5", "data/demo/oulu_npu/RENDERED.json", "data/demo/oulu_npu.truth/1.npz",
                 "runs/key/model.safetensors", ".venv/bin/python"):
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True); (tmp_path/name).touch()
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {"Makefile", "data/wmca/face.h5",
                    "runs/key/model.safetensors"} and not (tmp_path/"data/demo").exists()
