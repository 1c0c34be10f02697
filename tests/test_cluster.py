"Runs on workers: one killed in the middle, a batch system, Ctrl-C, a run that fails, the real layout."
import json, os, re, shutil, signal, stat, subprocess, time
from datetime import datetime

import numpy as np, pandas as pd, psutil, pytest
from conftest import BIN, ROOT, call

def finished(root):
    return {p.parent.name: p.stat().st_mtime_ns for p in (root/"runs").glob("*/result.json")
            if p.parent.suffix != ".partial"}

@pytest.fixture
def project(smoke, tmp_path):
    """A project whose data is annotated and none of whose runs is made: the folder, and a command that makes three
    runs, one for each seed."""
    shutil.copytree(smoke/"runs/stores", tmp_path/"runs/stores")
    return tmp_path, [str(BIN/"fas_run"), "--profile", "smoke", "--root", str(tmp_path), "--data-root",
                      str(smoke/"data/smoke"), "--quiet",
                      "--protocol", "wmca/LOO_glasses", "--seeds", "0,1,2"]

def start(command, **kwargs):
    "A command of its own process group, in which Ctrl-C counts even where the tests run in the background."
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler), **kwargs)

def wait_for(root, n, process, seconds=150):
    end = time.time() + seconds
    while len(finished(root)) < n and time.time() < end and process.poll() is None: time.sleep(.1)
    return len(finished(root))

def alive(group):
    "Command lines of the processes of a group that still run."
    found = []
    for p in psutil.process_iter(["pid", "status", "cmdline"]):
        try:
            if os.getpgid(p.pid) == group and p.info["status"] != psutil.STATUS_ZOMBIE: found.append(p.info["cmdline"])
        except ProcessLookupError: pass
    return found

@pytest.mark.long
def test_a_worker_is_killed_in_the_middle(project):
    from distributed import Client, LocalCluster
    root, command = project
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0",
                      silence_logs=50) as cluster, Client(cluster) as client:
        process = start([*command, "--scheduler", cluster.scheduler_address, "--set", "training.steps=40"])
        made = wait_for(root, 1, process)
        assert 1 <= made < 3, process.communicate()
        before = finished(root)
        victim = next(iter(client.run(os.getpid).values()))
        os.kill(victim, signal.SIGKILL)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
        assert victim not in client.run(os.getpid).values()                     # it did die, and another took its place
    after = finished(root)
    assert len(after) == 3 and before.items() <= after.items()                  # what was finished was not made again
    assert [line for line in out.splitlines() if line.startswith("3 runs;")], out

@pytest.mark.long
def test_a_batch_system(project, tmp_path):
    "SLURM is played by two scripts that start the job's own script and end it; everything else is dask-jobqueue."
    root, command = project
    fake = tmp_path/"bin"; fake.mkdir()
    (fake/"sbatch").write_text(f"#!/bin/bash\ncp $1 {tmp_path}/job.sh\nsetsid bash {tmp_path}/job.sh "
                               f">{tmp_path}/job.log 2>&1 &\necho $! >{tmp_path}/job.pid\necho Submitted batch job 7\n")
    (fake/"scancel").write_text(f"#!/bin/bash\nkill -- -$(cat {tmp_path}/job.pid) 2>/dev/null; true\n")
    for script in fake.iterdir(): script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (tmp_path/"slurm.yaml").write_text("cores: 1\nprocesses: 1\nmemory: 2GB\nwalltime: '00:10:00'\nqueue: "
                                       f"short\njobs: 1\ninterface: lo\npython: {BIN/'python'}\n"
                                       "job_extra_directives: ['--comment=fas_nb']\n")
    try:
        process = start([*command, "--slurm", str(tmp_path/"slurm.yaml"), "--set", "training.steps=8"],
                        env=os.environ | {"PATH": f"{fake}:{os.environ['PATH']}"})
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err + (tmp_path/"job.log").read_text()
        job = (tmp_path/"job.sh").read_text()
        # the file's words reached the batch system
        assert "#SBATCH -p short" in job and "--comment=fas_nb" in job
        assert len(finished(root)) == 3
    finally: subprocess.run([str(fake/"scancel")])

@pytest.mark.long
def test_stopped_by_the_user(project):
    "Ctrl-C: one line, exit code 1, no half-made run, no process left; the same command goes on."
    root, command = project
    process = start([*command, "--set", "training.steps=40", "--workers", "2"])
    assert wait_for(root, 1, process) < 3
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "stopped; what was finished is kept" in err and "Traceback" not in err, out + err
    end = time.time() + 20
    while (left := alive(process.pid)) and time.time() < end: time.sleep(.2)
    assert not left, left
    before = finished(root)
    assert before and not [p for p in (root/"runs").glob("*.partial")]
    done = subprocess.run([*command, "--set", "training.steps=40"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert before.items() <= finished(root).items() and len(finished(root)) == 3

@pytest.mark.long
def test_a_run_that_fails_is_listed_and_the_table_stands(project, smoke):
    root, command = project[0], ["fas_reproduce", "--tables", "5", "--workers", "1", *project[1][1:8]]
    spec = next(s for p in (smoke/"runs").glob("*/spec.json") for s in [json.loads(p.read_text())]
                if s["fold"]["dataset"] == "wmca")
    from fas_nb.store import AnnotationStore
    store = AnnotationStore(next((root/"runs/stores").glob("wmca-*"))/"annotations")
    store.path("regions", spec["fold"]["train"][0], 0).write_bytes(b"no picture")
    done = call(*command, "--set", "training.steps=8", cwd=ROOT)
    assert done.returncode == 1 and "Traceback" not in done.stderr and done.stderr.count(
        "failed: run ") == 2, done.stderr
    logs = list((root/"runs").glob("*.failed.log"))
    begun = json.loads(
        (root/"reports/smoke/notebooks/wmca-LOO_glasses.ipynb").read_text())["metadata"]["papermill"]["start_time"]
    tried = max(datetime.fromtimestamp(p.stat().st_mtime).astimezone() for p in logs)
    assert len(logs) == 2 and tried < datetime.fromisoformat(begun), "no notebook tries them again"
    page, data = (root/"reports/smoke/table5.html").read_text(), json.loads(
        (root/"reports/smoke/table5.json").read_text())
    # empty, and why
    assert {c["reason"] for c in data["cells"] if c["column"] == "glasses"} == {"1 of 1 runs failed"}
    log = re.search(r"trace: ([0-9a-f]{64}\.failed\.log)", page)
    assert log and "Traceback" in (root/"runs"/log[1]).read_text() and "mend what it names" in page
    assert "trace: " in (root/"reports/smoke/index.html").read_text()

@pytest.mark.long
def test_two_processes_make_the_same_run(smoke, tmp_path):
    "Both succeed, one whole folder is left."
    shutil.copytree(smoke/"runs/stores", tmp_path/"runs/stores")
    command = [str(BIN/"fas_run"), "--profile", "smoke", "--root", str(tmp_path), "--data-root",
               str(smoke/"data/smoke"), "--quiet", "--workers", "1",
               "--set", "training.steps=15", "--json"]
    both = [start(command) for _ in range(2)]
    told = [json.loads(p.communicate(timeout=120)[0]) for p in both]
    assert [p.returncode for p in both] == [0, 0] and told[0] == told[1]
    assert len(finished(tmp_path)) == 1 and not list((tmp_path/"runs").glob("*.partial"))

SHORT = """
import sys, fas_nb.training
fas_nb.training.COLLECTIVE_SECONDS = 10    # far less than annotation takes
from fas_nb.cli import fas_run
sys.exit(fas_run())
"""

@pytest.mark.long
def test_several_processes_share_one_run(smoke, tmp_path):
    """As on a machine with two GPUs, from empty stores: one annotates while the other waits without a limit; both
    train one network and share its scoring; one writes and tells."""
    (script := tmp_path/"short.py").write_text(SHORT)
    options = ("--profile", "smoke", "--root", tmp_path, "--data-root", smoke/"data/smoke", "--quiet", "--json",
               "--set", "training.steps=12", "--set", "training.micro=6")
    done = call("torchrun", "--standalone", "--nproc_per_node", "2", script, *options, cwd=ROOT,
                env=os.environ | {"ACCELERATE_USE_CPU": "true"})
    assert done.returncode == 0, done.stderr[-3000:]
    (row,) = json.loads(done.stdout)
    assert 0 < row["waiting"] < 1 and row["dead"] == []
    assert row["provenance"]["processes"] == 2 and list(finished(tmp_path)) == [row["key"]] and not list(
        (tmp_path/"runs").rglob("*.partial"))
    assert json.loads((tmp_path/"runs"/row["key"]/"log.jsonl").read_text().splitlines()[-1])["step"] == 12
    shutil.copytree(tmp_path/"runs/stores", tmp_path/"alone/stores")
    # one process: the same key, the same network, the same scores
    alone = call("fas_run", *options, "--runs-dir", tmp_path/"alone", "--workers", "1", cwd=ROOT)
    (other,) = json.loads(alone.stdout)
    assert (other["key"], other["provenance"]["network"]) == (row["key"], row["provenance"]["network"])
    shared, single = (pd.read_parquet(folder/row["key"]/"scores.parquet")
                      for folder in (tmp_path/"runs", tmp_path/"alone"))
    assert (shared.presentation == single.presentation).all() and np.allclose(shared.score, single.score, atol=2e-3)
    failed = call("fas_run", "--devices", "2", *options, "--set", "training.batch=13", "--set", "training.micro=0",
                  cwd=ROOT, env=os.environ | {"ACCELERATE_USE_CPU": "true"})
    assert failed.returncode == 1 and len(
        failed.stderr.strip().splitlines()) == 1 and "cannot be shared by 2 processes" in failed.stderr, failed.stderr

def test_runs_are_listed_shown_and_collected(smoke, tmp_path):
    shutil.copytree(smoke/"runs", tmp_path/"runs", ignore=lambda folder, names: [n for n in names if n == "stores"])
    shutil.copytree(smoke/"runs/stores", tmp_path/"runs/stores")
    common = ("--root", tmp_path, "--profile", "smoke", "--data-root", smoke/"data/smoke", "--quiet")
    listed = json.loads(call("fas_run", "--list", "--json", *common).stdout)
    assert {r["key"] for r in listed} == set(finished(tmp_path)) and {"ours", "living_only",
                                                                      "no_mcrea"} <= {r["variant"] for r in listed}
    one = json.loads(call("fas_run", "--show", listed[0]["key"][:10], *common).stdout)
    assert [r["key"] for r in one] == [listed[0]["key"]] and one[0]["provenance"]["weights"]
    for name, spec in (("0"*64, json.loads((tmp_path/"runs"/listed[0]["key"]/"spec.json").read_text())),):
        (tmp_path/"runs"/name).mkdir(); (tmp_path/"runs"/name/"result.json").write_text("{}")
        (tmp_path/"runs"/name/"spec.json").write_text(json.dumps(spec | {"code": "earlier"}))
    for name in ("1", "2"): (tmp_path/"runs"/f"{name*64}.checkpoint").write_text("")
    # the other may belong to a job that runs
    os.utime(tmp_path/"runs"/f"{'1'*64}.checkpoint", (0, 0))
    before = finished(tmp_path)
    told = call("fas_run", "--gc", "--root", tmp_path, "--profile", "smoke")    # no data is needed
    assert told.returncode == 0 and told.stdout.endswith("2 runs and leftovers "
                                                         "would be removed; say --yes to do it\n") and finished(
                                                             tmp_path) == before, told.stdout + told.stderr
    other = json.loads(call("fas_run", "--gc", "--root", tmp_path, "--profile", "paper", "--json").stdout)
    assert other == [f"{'1'*64}.checkpoint"]                                    # runs of other profiles stay
    done = call("fas_run", "--gc", "--yes", "--root", tmp_path, "--profile", "smoke")
    assert done.returncode == 0 and {r["key"] for r in listed} == set(finished(tmp_path)) and (
        tmp_path/"runs"/f"{'2'*64}.checkpoint").exists(), done.stderr

@pytest.mark.long
def test_rehearsal_with_the_real_layout(smoke, tmp_path):
    """What a licence holder types, on data without the marker of rendering: profile small made smaller, two seeds,
    several frames. Published and reproduced stand side by side, and no page shows a face."""
    shutil.copytree(smoke/"data/smoke/oulu_npu", tmp_path/"DIR/oulu_npu")
    (tmp_path/"DIR/oulu_npu/RENDERED.json").unlink()
    smaller = [x for f in ("protocols=oulu_npu/1", "frame_size=96", "model.width=4", "training.size=24",
                           "training.epochs=2", "training.batch=8", "scoring.size=24", "scoring.frames=2")
               for x in ("--set", f)]
    command = ("fas_reproduce", "--tables", "3", "--profile", "small", "--seeds", "0,1", "--data-root", tmp_path/"DIR",
               "--root", tmp_path, "--quiet", *smaller)
    done = call(*command, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    out = tmp_path/"reports/small"
    table, page = (out/"table3.html").read_text(), (out/"oulu_npu-1.html").read_text()
    assert ("Published and reproduced" in table and "difference, fas_nb" in table and 'class="syn"' not in table + page
            and "Rendered data." not in table + page)
    data = json.loads((out/"table3.json").read_text())
    cell = next(c for c in data["cells"] if c["column"].startswith("protocol_1") or c["value"] is not None)
    # the network is smaller
    assert (not data["comparable_with_paper"] and "training.epochs" in data["deviations"]
            and "Settings that differ from the paper" in table)
    assert f"--data-root {tmp_path/'DIR'}" in table                             # real data: as the user gave it
    assert cell["seeds"] == 2 and cell["seed_std"] is not None and cell["n"]["runs"] == 2 and cell["interval"]
    assert page.count("Faces of licensed data are not shown") == 3
    assert call(*command, "--faces", cwd=ROOT).returncode == 0
    assert "Faces of licensed data are not shown" not in (out/"oulu_npu-1.html").read_text()
    assert call("fas_reproduce", "--verify", out, cwd=ROOT).returncode == 0

@pytest.mark.long
@pytest.mark.parametrize("table, protocol, datasets",
                         [(1, "wmca/LOO_glasses", ["wmca"]),
                          (2, "casia_fasd/to_replay_attack", ["casia_fasd", "replay_attack"])])
def test_rehearsal_of_other_layouts(smoke, tmp_path, table, protocol, datasets):
    "HDF5 recordings, and two data sets in one table, without the marker of rendering."
    for d in datasets:
        shutil.copytree(smoke/"data/smoke"/d, tmp_path/"DIR"/d)
        (tmp_path/"DIR"/d/"RENDERED.json").unlink()
    done = call("fas_reproduce", "--tables", table, "--profile", "smoke", "--data-root", tmp_path/"DIR", "--root",
                tmp_path, "--quiet", "--set", "training.steps=8", "--set", "segmenter=polygon", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    page, data = (tmp_path/f"reports/smoke/table{table}.html").read_text(), json.loads(
        (tmp_path/f"reports/smoke/table{table}.json").read_text())
    assert ("Published and reproduced" in page and 'class="syn"' not in page and data["data_origin"] == "real"
            and not data["comparable_with_paper"])
    assert [c for c in data["cells"] if c["value"] is not None]
    run = next(json.loads(p.read_text()) for p in (tmp_path/"runs").glob("*/result.json"))
    assert run["origin"] == "real" and set(run["provenance"]["data"]) == set(datasets)

@pytest.mark.long
def test_stopped_while_pages_are_made(smoke, tmp_path):
    "Ctrl-C during the notebooks: one line, exit code 1, no kernel left; the same command goes on."
    for folder in ("data", "runs"): shutil.copytree(smoke/folder, tmp_path/folder)
    command = [str(BIN/"fas_reproduce"), "--profile", "smoke", "--root", str(tmp_path), "--tables", "3", "--quiet"]
    process = start(command)
    while not process.stderr.readline().startswith("2/3"): assert process.poll() is None
    while not (kernels := [p for p in psutil.Process(process.pid).children(recursive=True)
                           if "ipykernel" in " ".join(p.cmdline())]):
        time.sleep(.1)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 1 and "stopped; what was finished is kept" in err and "Traceback" not in err, out + err
    assert not psutil.wait_procs(kernels, timeout=20)[1] and not alive(process.pid)
    assert not (tmp_path/"reports/smoke/index.html").exists() and not list(tmp_path.rglob("*.partial"))
    assert subprocess.run(command, cwd=ROOT,
                          capture_output=True).returncode == 0 and (tmp_path/"reports/smoke/index.html").exists()

def test_nothing_is_rendered_beside_real_data(smoke, tmp_path):
    "A folder that the user names is read, never written to, and numbers of two origins never meet."
    shutil.copytree(smoke/"data/smoke/oulu_npu", tmp_path/"DIR/oulu_npu")
    (tmp_path/"DIR/oulu_npu/RENDERED.json").unlink()
    files = lambda: sorted(str(p) for p in (tmp_path/"DIR").rglob("*"))
    before = files()
    for profile, tables in (("small", "2"), ("demo", "2,3")):
        done = call("fas_reproduce", "--tables", tables, "--profile", profile, "--data-root", tmp_path/"DIR", "--root",
                    tmp_path, "--quiet")
        assert done.returncode == 2 and f"no casia_fasd, replay_attack in {tmp_path/'DIR'}" in done.stderr and len(
            done.stderr.strip().splitlines()) == 2, done.stderr
    for name in ("casia_fasd", "replay_attack"): (tmp_path/"DIR"/name).symlink_to(smoke/"data/smoke"/name)
    before = files()
    done = call("fas_reproduce", "--tables", "2,3", "--profile", "smoke", "--data-root", tmp_path/"DIR", "--root",
                tmp_path, "--quiet")
    assert (done.returncode == 2
            and "real data (oulu_npu) and rendered data (casia_fasd, replay_attack)" in done.stderr), done.stderr
    assert files() == before and not (tmp_path/"runs").exists() and not (tmp_path/"reports").exists()

@pytest.mark.long
def test_data_that_was_replaced_is_cropped_again(smoke, tmp_path):
    "Other videos at the same path never meet the crops of the old."
    shutil.copytree(smoke/"data/smoke/oulu_npu", tmp_path/"DIR/oulu_npu")
    (tmp_path/"DIR/oulu_npu/RENDERED.json").unlink()
    command = ("fas_run", "--profile", "smoke", "--data-root", tmp_path/"DIR", "--root", tmp_path, "--quiet", "--json",
               "--set", "training.steps=4", "--workers", "1",
               "--set", "segmenter=polygon")
    first, again = (json.loads(call(*command, cwd=ROOT).stdout)[0] for _ in range(2))
    videos = sorted((tmp_path/"DIR/oulu_npu/Train_files").rglob("*_1.avi"))
    shutil.copy(videos[1], videos[0])
    other = json.loads(call(*command, cwd=ROOT).stdout)[0]
    assert (first["key"] == again["key"] != other["key"]
            and first["provenance"]["data"]["oulu_npu"] != other["provenance"]["data"]["oulu_npu"])
    # the same store: the one presentation that changed was cropped again
    assert len(list((tmp_path/"runs/stores").iterdir())) == 1

def test_verify_says_what_no_longer_matches(smoke, tmp_path):
    shutil.copytree(smoke/"reports", tmp_path/"reports")
    whole = call("fas_reproduce", "--verify", tmp_path/"reports/smoke", "--runs-dir", smoke/"runs", "--json")
    told = json.loads(whole.stdout)
    assert whole.returncode == 0 and told["no_longer_matches"] == [] and told["compared"] > 50
    page = tmp_path/"reports/smoke/table1.html"
    page.write_text(page.read_text().replace("syn", ""))
    key = next(iter(json.loads((smoke/"reports/smoke/table1.json").read_text())["runs"]))
    shutil.copytree(smoke/"runs", tmp_path/"runs")
    (tmp_path/"runs"/key/"scores.parquet").write_bytes(b"other scores")
    next((tmp_path/"runs/stores").glob("wmca-*/frames/**/*.npz")).unlink()
    changed = call("fas_reproduce", "--verify", tmp_path/"reports/smoke")
    assert changed.returncode == 1 and "Traceback" not in changed.stderr
    for what in ("table1.html: changed", f"run {key} scores: was", "store wmca-",
                 "table1: cannot be made again from its runs"):
        assert what in changed.stdout, changed.stdout
    assert f"{changed.stdout.count('no longer matches: ')} no longer match" in changed.stdout
