"""The same night by Siril: masters, calibration, sky as a plane, registration, stacking with rejection.

    python siril.py RAW_FOLDER RESULTS_FOLDER

It looks for no cosmic rays in single frames and measures no table of the sky. Needs ``siril-cli`` (Debian: siril).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

MASTERS = """requires 1.0.0
setext fits
cd {folder}/bias
convert bias
stack bias rej 3 3 -nonorm
cd {folder}/dark
convert dark
stack dark rej 3 3 -nonorm
"""
LIGHTS = """cd {folder}/flat_{name}
convert flat
preprocess flat -bias={folder}/bias/bias_stacked
stack pp_flat rej 3 3 -norm=mul
cd {folder}/light_{name}
convert light
preprocess light -dark={folder}/dark/dark_stacked -flat={folder}/flat_{name}/pp_flat_stacked -cc=dark
seqsubsky pp_light 1
register bkg_pp_light
stack r_bkg_pp_light rej 3 3 -norm=addscale
"""


def main(raw: str, results: str) -> None:
    folder = Path(results).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    names = set()
    for path in sorted(Path(raw).resolve().glob("*.fits")):
        parts = path.stem.split("_")
        kind = parts[0] if parts[0] in ("bias", "dark", "flat") else "light"
        name = f"{kind}_{parts[1]}" if kind in ("flat", "light") else kind
        names |= {parts[1]} if kind == "light" else set()
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / path.name).symlink_to(path)
    script = MASTERS.format(folder=folder) + "".join(LIGHTS.format(folder=folder, name=n) for n in sorted(names))
    (folder / "night.ssf").write_text(script, encoding="utf-8")
    done = subprocess.run(["siril-cli", "-s", str(folder / "night.ssf")], capture_output=True, text=True)
    if done.returncode or len(list(folder.glob("light_*/*_stacked.fits"))) < len(names):
        sys.exit(f"siril-cli ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-1000:]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
