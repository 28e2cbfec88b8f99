"""Holds every checkpoint and feature file of a reference folder against the original's outputs: `make parity`.

Usage: python tests/parity.py FOLDER, laid out as the reference outputs are: uniter, lxmert, vilt, frcnn, caffe_butd,
frcnn_preprocessing, feature_files, each with config.json and .npz files, in any sizes.
"""

import os
import sys
from pathlib import Path

from parity_detector import detector_lines
from parity_files import file_lines
from parity_models import model_lines

KINDS = {
    "uniter": model_lines,
    "lxmert": model_lines,
    "vilt": model_lines,
    "frcnn": detector_lines,
    "caffe_butd": detector_lines,
    "frcnn_preprocessing": detector_lines,
    "feature_files": file_lines,
}


def main(reference: Path) -> int:
    """Print a line an array; return the number of those past their tolerance."""
    folders = [reference / kind for kind in KINDS if (reference / kind).is_dir()]
    if not folders:
        print(f"{reference} holds none of {', '.join(KINDS)}", file=sys.stderr)
        return 1
    past = count = 0
    for folder in folders:
        for name, gap, tolerance in KINDS[folder.name](folder):
            count += 1
            past += not gap <= tolerance
            print(
                f"{'ok  ' if gap <= tolerance else 'PAST'} {folder.name:<20} {name:<48} {gap:9.2e} (<= {tolerance:.0e})"
            )
    print(f"{count} arrays, {past} past their tolerance")
    return past


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(bool(main(Path(sys.argv[1]))))
