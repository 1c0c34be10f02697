"Packaging: everything is declared in settings.ini, so that notebooks, lock and package agree on one place."
from configparser import ConfigParser
from glob import glob

from setuptools import find_packages, setup

config = ConfigParser(delimiters=["="])
config.read("settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
extras = {name: cfg[f"{name}_requirements"].split() for name in ("synth", "scale", "fast", "heif", "dev")}

setup(
    name=cfg["lib_name"], version=cfg["version"], description=cfg["description"], keywords=cfg["keywords"],
    license="Apache-2.0", author=cfg["author"],
    long_description=open("README.md", encoding="utf-8").read(), long_description_content_type="text/markdown",
    packages=find_packages(include=["fas_nb", "fas_nb.*"]), package_data={"fas_nb": ["assets/*", "assets/**/*"]},
    # the report templates, the paper's tables and the measured speed that a page tells travel with the package
    data_files=[("share/fas_nb/reports", sorted(glob("nbs/reports/*.ipynb"))),
                ("share/fas_nb/published", sorted(glob("reports/published/*.csv"))),
                ("share/fas_nb/bench", [f"nbs/bench/results/{name}.json" for name in ("model_speed", "check_speed", "memory")])],
    python_requires=cfg["python_requires"],
    install_requires=cfg["requirements"].split(), extras_require=extras,
    entry_points={"console_scripts": cfg["console_scripts"].split()}, zip_safe=False)
