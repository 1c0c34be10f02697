"What must hold of every HTML page: read by a parser everywhere, and by a browser where there is one."
import base64, html, html.parser, io, json, re, shutil, subprocess

import pytest
from conftest import ROOT
from PIL import Image

def pages(smoke): return sorted((smoke/"reports/smoke").glob("*.html"))

class Reader(html.parser.HTMLParser):
    "Elements with their attributes; what is opened must be closed."
    void = {"meta", "link", "img", "br"}
    def __init__(self, text):
        super().__init__()
        self.found, self.stack = [], []
        self.feed(text); self.close()
        assert not self.stack, f"never closed: {self.stack}"
    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.void: self.stack.append(tag)
    def handle_endtag(self, tag):
        assert self.stack and self.stack.pop() == tag, f"</{tag}> closes nothing"
    def all(self, tag): return [a for t, a in self.found if t == tag]

def test_well_formed_and_complete(smoke):
    for page in pages(smoke):
        text = page.read_text(encoding="utf-8")
        read = Reader(text)
        assert read.all("html")[0]["lang"] == "en" and read.all("title") and len(read.all("h1")) == 1 and read.all(
            "main"), page.name
        assert len(text) < 3e6, f"{page.name}: {len(text)/1e6:.1f} MB"
        assert not read.all("script"), page.name

def test_nothing_comes_from_outside(smoke):
    for page in pages(smoke):
        read = Reader(page.read_text(encoding="utf-8"))
        for tag, attrs in read.found:
            for name in ("src", "href", "srcset", "data", "action"):
                assert not re.match(r"(https?:)?//",
                                    attrs.get(name) or ""), f"{page.name}: <{tag} {name}={attrs[name][:60]}>"
        assert not re.search(r"@import|url\((?!data:)",
                             re.sub(r"base64,[A-Za-z0-9+/=]+", "", page.read_text(encoding="utf-8"))), page.name

def test_every_picture_decodes_and_says_what_it_shows(smoke):
    n = 0
    for page in pages(smoke):
        for attrs in Reader(page.read_text(encoding="utf-8")).all("img"):
            assert len(attrs.get("alt", "")) > 10, f"{page.name}: a picture without a description"
            kind, data = re.fullmatch(r"data:image/(\w+);base64,(.+)", attrs["src"]).groups()
            with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
                picture.load()
                assert picture.format == kind.upper() and min(picture.size) > 50
            n += 1
    assert n >= 3*5 + 5   # five of each protocol page, one of each table

def test_tables_can_be_read_aloud_and_reached_by_keyboard(smoke):
    for page in pages(smoke):
        read = Reader(page.read_text(encoding="utf-8"))
        assert all(a.get("scope") in ("col", "row") for a in read.all("th")), page.name
        regions = [a for a in read.all("div") if a.get("class") == "scroll"]
        assert len(regions) == len(read.all("table")) and all(a["tabindex"] == "0" and a["aria-label"]
                                                              for a in regions), page.name
        assert any(a.get("class") == "skip" and a["href"] == "#content"
                   for a in read.all("a")) and read.all("main")[0]["id"] == "content"

def luminance(color):
    parts = [int(color[i:i + 2], 16)/255 for i in (1, 3, 5)]
    return sum(w*(c/12.92 if c <= .03928 else ((c + .055)/1.055)**2.4) for w, c in zip((.2126, .7152, .0722), parts))

def test_contrast_of_text():
    "WCAG 2 level AA, 4.5 to 1, of every text colour on every background of the template."
    style = (ROOT/"fas_nb/assets/page.html").read_text()
    named = dict(re.findall(r"--([\w-]+):(#[0-9a-f]{6})", style))
    texts = {named[n] for n in re.findall(r"(?<![-\w])color:var\(--([\w-]+)\)",
                                          style)} | set(re.findall(r"(?<![-\w])color:(#[0-9a-f]{6})", style))
    for text in texts:
        for ground in ("#ffffff", "#f6f8fa"):
            a, b = sorted((luminance(text), luminance(ground)))
            assert (b + .05)/(a + .05) >= 4.5, f"{text} on {ground}: {(b + .05)/(a + .05):.1f}"
    a, b = sorted((luminance(named["ink"]), luminance(named["warn-bg"])))
    assert (b + .05)/(a + .05) >= 4.5

def test_code_is_folded(smoke):
    for name in ("table1", "wmca-LOO_glasses"):
        text = (smoke/f"reports/smoke/{name}.html").read_text(encoding="utf-8")
        folded = re.findall(r"<details[^>]*>(.*?)</details>", text, re.S)
        assert text.count("<pre") == sum(f.count("<pre")
                                         for f in folded) > 3 and not re.search("<details[^>]* open", text)

def tables(page):
    "Heading or caption of a table -> its heads and rows, as texts of cells."
    from fas_nb.reports import _Tables
    return _Tables(page.read_text(encoding="utf-8")).found

def test_what_a_table_is_read_for_comes_first(smoke):
    """Mean and spread before single protocols, the error rate before its explanations: a narrow screen shows the first
    columns."""
    for n in (1, 4):
        heads = tables(smoke/f"reports/smoke/table{n}.html")["fas_nb on rendered data"][0]
        assert heads[:3] == ["method", "mean", "std"], heads
    assert tables(smoke/"reports/smoke/index.html")["Tables"][0][:3] == ["table", "ours, %", "95 %"]

def test_no_rate_without_its_interval(smoke):
    "In main tables the interval stands below the number, in every cell that has one."
    for n in (2, 3):
        text = (smoke/f"reports/smoke/table{n}.html").read_text(encoding="utf-8")
        table = text[text.index("fas_nb on rendered data</h2>"):text.index("Paper, on the real data")]
        cells = re.findall(r"<td>(.*?)</td>", table)
        numbers = [c for c in cells if re.match(r"[\d.]+<", c)]
        # a standard deviation has none
        assert numbers and sum('class="under"' in c for c in numbers) >= len(numbers)/2

def test_notes_stand_once(smoke):
    "What many cells have to say stands once below their table, under a letter; the CSV keeps it in each cell."
    for page in pages(smoke):
        for table in re.findall(r"<table>.*?</table>", page.read_text(encoding="utf-8"), re.S):
            said = re.findall(r'<span class="small">(.+?)</span>', table)
            most = max(said, key=said.count, default="")
            assert said.count(most) < 2, f"{page.name}: {most!r} is said {said.count(most)} times in one table"
    assert "ignores clustering" in (smoke/"reports/smoke/tables/table3-intervals-and-spreads.csv").read_text()
    assert "ignores clustering" in (smoke/"reports/smoke/table3.html").read_text()

def test_hashes_are_folded_and_links_inside_pages_lead_somewhere(smoke):
    for page in pages(smoke):
        text, read = page.read_text(encoding="utf-8"), Reader(page.read_text(encoding="utf-8"))
        if "code hash" in text:
            assert "Hashes, versions and settings" in text and text.index(
                "Hashes, versions and settings") < text.index("code hash")
        for attrs in read.all("a"):
            href = attrs["href"]
            if "#" not in href or href == "#content": continue
            name, _, part = href.partition("#")
            target = Reader((page.parent/name).read_text(encoding="utf-8") if name else text)
            assert any(a.get("id") == part for _, a in target.found), f"{page.name}: {href} leads nowhere"

def test_warnings_count_and_name_the_runs(smoke):
    warned = [page for page in pages(smoke) if 'class="bad"' in page.read_text(encoding="utf-8")]
    assert warned, "networks of the profile smoke train for seconds, and pages say so"
    for page in warned:
        for text in re.findall(r'<p class="bad">(.*?)</p>', page.read_text(encoding="utf-8"), re.S):
            assert re.search(r"\d+ of \d+ runs", text) and 'href="' in text, f"{page.name}: {text[:200]}"
        notebook = page.parent/"notebooks"/f"{page.stem}.ipynb"
        if notebook.exists():   # the executed notebook says the same
            said = notebook.read_text(encoding="utf-8")
            first = re.sub(r"\s*<.*", "", re.search(r'<p class="bad">(.*?)</p>', page.read_text(encoding="utf-8"),
                                                    re.S)[1], flags=re.S)
            assert html.unescape(first) in said.replace('\\"', '"'), f"{notebook.name} lacks: {first}"

def test_the_page_for_licence_holders_is_no_result(smoke):
    text = (smoke/"reports/smoke/real-data.html").read_text(encoding="utf-8")
    assert 'class="banner' not in text and "Rendered data." not in text and 'class="syn"' not in text

def test_licence_holders_read_what_masks_ask_of_a_gpu_and_that_it_is_computed(smoke):
    from fas_nb.reports import _Tables
    text = (smoke/"reports/smoke/real-data.html").read_text(encoding="utf-8")
    head, *rows = _Tables(text).found["Masks of Segment Anything on one GPU"]
    shown, vits = {row[0]: dict(zip(head, row)) for row in rows}, ("sam_vit_b", "sam_vit_l", "sam_vit_h")
    assert set(shown) == {"face_sam_tiny", *vits, "mobile_sam"}
    for data, frames in (("16,790 frames of WMCA", 16_790), ("49,500 frames of OULU-NPU", 49_500)):
        rates = [float(shown[v]["frames a second at 30 TFLOP/s"]) for v in vits]
        hours = [float(shown[v][f"{data} at 30 TFLOP/s"].removesuffix(" h")) for v in vits]
        assert rates == sorted(rates, reverse=True) and hours == sorted(hours)
        assert hours == pytest.approx([frames/r/3600 for r in rates], rel=.03)
    assert [shown[v]["GPU memory, one picture at a time"] for v in ("sam_vit_b", "sam_vit_h")] == ["3.0 GB", "7.1 GB"]
    said = re.sub(r"\s+", " ", html.unescape(text))
    assert "Computed from operation counts, not measured: no GPU was at hand." in said
    assert "counts the image encoder alone" in said and "Annotation runs on CPU cores" not in said
    assert "run on a GPU where there is one and on cores otherwise" in said

DRIVER = """<!doctype html><body><script>
const names = %s, seen = {};
addEventListener('load', () => setTimeout(() => {
  for (const f of document.querySelectorAll('iframe')) {
    const d = f.contentDocument, images = [...d.images];
    const drawn = images.filter(i => i.complete && i.naturalWidth > 0).length;
    seen[f.name] = {title: d.title, pictures: images.length, drawn: drawn,
                    overflow: d.documentElement.scrollWidth - f.clientWidth};
  }
  document.body.innerHTML = '<pre id=result>' + JSON.stringify(seen) + '</pre>';
}, 500));
for (const n of names) {
    const f = document.createElement('iframe');
    f.name = n; f.src = n; f.width = 390; f.height = 844; document.body.append(f); }
</script></body>"""

def browser():
    found = next((b for b in map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome")) if b), None)
    if not found:
        pytest.skip("no browser on this machine (Debian: apt-get install chromium); the pages were checked by the "
                    "parser tests alone")
    return found

def test_a_browser_draws_every_page(smoke, tmp_path):
    "On the width of a phone: no console message, every picture drawn, nothing wider than the screen."
    names = [p.name for p in pages(smoke)]
    for name in names: shutil.copy(smoke/"reports/smoke"/name, tmp_path)
    driver = tmp_path/"driver.html"
    driver.write_text(DRIVER % json.dumps(names))
    done = subprocess.run([browser(), "--headless=new", "--no-sandbox", "--disable-gpu",
                           "--allow-file-access-from-files", "--enable-logging=stderr", "--v=0",
                           "--virtual-time-budget=20000", "--dump-dom", driver.as_uri()], capture_output=True,
                          text=True, timeout=180)
    result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.S)
    assert result, done.stderr[-2000:]
    seen = json.loads(result[1].replace("&amp;", "&"))
    assert sorted(seen) == names
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line], done.stderr[-2000:]
    for name, page in seen.items():
        assert page["title"] and page["drawn"] == page["pictures"], f"{name}: {page}"
        assert page["overflow"] <= 0, f"{name}: {page['overflow']} px wider than a phone"
    assert sum(p["pictures"] for p in seen.values()) >= 3*5 + 5
