"""volta's HDF5 files: groups of arrays that lie in the file itself."""

import subprocess
import sys

import numpy as np
import pytest
from tiny_regions import made, read, write

from vlprobe.errors import BadRow, DataError
from vlprobe.regions import open_regions


def test_an_independent_reading_of_volta_agrees(tmp_path):
    h5py = pytest.importorskip("h5py")
    wanted = made(3)
    with h5py.File(write("volta-h5", tmp_path / "a.h5", ("im", wanted)), "r") as file:
        assert list(file) == ["im"]
        group = file["im"]
        np.testing.assert_allclose(group["boxes"][:], wanted.boxes * [200, 100, 200, 100], rtol=1e-6)
        np.testing.assert_array_equal(group["features"][:], wanted.features)
        np.testing.assert_array_equal(group["obj_id"][:], wanted.objects)
        np.testing.assert_array_equal(group["attr_conf"][:], wanted.attribute_confidence)
        assert (group["img_w"][()], group["img_h"][()]) == (200, 100)


@pytest.mark.parametrize("what", ["missing", "strings", "size", "cut", "array"])
def test_a_damaged_h5_is_told(tmp_path, what):
    h5py = pytest.importorskip("h5py")
    path = write("volta-h5", tmp_path / "a.h5", ("1", made(1)), ("2", made(2)))
    with h5py.File(path, "a") as file:
        group = file["2"]
        if what == "missing":
            del group["boxes"]
        elif what == "strings":
            del group["features"]
            group["features"] = np.array([b"a"] * 5, dtype=object)
        elif what == "size":
            del group["img_w"]
            group["img_w"] = np.zeros(3, int)
        elif what == "array":
            del file["2"]
            file["2"] = np.zeros(3)
    if what == "cut":
        path.write_bytes(path.read_bytes()[:-300])
    said = {
        "missing": "entry '2': no 'boxes'",
        "strings": "'features' is not an array of numbers",
        "size": "img_w is .*expected one whole number",
        "cut": "cannot be opened as HDF5",
        "array": "is a single array",
    }[what]
    with pytest.raises((BadRow, DataError), match=said):
        read(path, "2.jpg")


@pytest.mark.parametrize("what", ["external", "virtual", "link", "soft link", "dangling", "entry", "link inside"])
def test_an_h5_that_leads_out_of_itself_is_refused(tmp_path, what, monkeypatch):
    h5py = pytest.importorskip("h5py")
    path = write("volta-h5", tmp_path / "a.h5", ("1", made(1)), ("2", made(2)))
    secret = str(write("volta-h5", tmp_path / "secret.h5", ("2", made(3))))
    (tmp_path / "secret").write_bytes(bytes(120))
    with h5py.File(path, "a") as file:
        group = file["2"]
        kept = group["features"][:]
        del group["features"]
        if what == "external":
            group.create_dataset("features", (5, 6), "f4", external=[(str(tmp_path / "secret"), 0, 120)])
        elif what == "virtual":
            layout = h5py.VirtualLayout((5, 6), "f4")
            layout[:] = h5py.VirtualSource(secret, "2/features", (5, 6))
            group.create_virtual_dataset("features", layout)
        elif what == "link":
            group["features"] = h5py.ExternalLink(secret, "/2/features")
        elif what == "soft link":
            file["~out"] = h5py.ExternalLink(secret, "/2")
            group["features"] = h5py.SoftLink("/~out/features")
        elif what == "dangling":
            group["features"] = h5py.SoftLink("/nowhere")
        elif what == "entry":
            del file["2"]
            file["2"] = h5py.ExternalLink(secret, "/2")
        elif what == "link inside":  # it cannot be told from one that leads out without following it
            file["~in"] = kept
            group["features"] = h5py.SoftLink("/~in")
    (tmp_path / "secret.h5").unlink()  # nor is it looked for
    key, said = {
        "external": ("features", "lie outside of it .an external data set"),
        "virtual": ("features", "lie outside of it .a virtual data set"),
        "link": ("features", "is an external link, .* not followed"),
        "entry": ("2", "is an external link, .* not followed"),
    }.get(what, ("features", "is a soft link, .* not followed"))
    with pytest.raises(BadRow, match=rf"a.h5, entry '2': .*'{key}' {said}"):
        read(path, "2.jpg")
    np.testing.assert_array_equal(read(path, "1.jpg").features, made(1).features)


def test_an_optional_array_of_an_h5_may_not_lead_out_either(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = write("volta-h5", tmp_path / "a.h5", ("1", made(1)), ("2", made(2)))
    with h5py.File(path, "a") as file:
        del file["2"]["obj_conf"]
        file["2"]["obj_conf"] = h5py.ExternalLink("nowhere.h5", "/x")
    with pytest.raises(BadRow, match="'obj_conf' is an external link"):
        read(path, "2.jpg")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    write("volta-h5", tmp_path / "a.h5", ("1", made(1)))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"'h5py' is not installed; pip install 'vlprobe\[regions\]'"):
        open_regions("a.h5", folder=tmp_path)


def test_a_torn_h5_is_told(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = write("volta-h5", tmp_path / "a.h5", ("1", made(1)))
    code = f"import h5py, os; f = h5py.File({str(path)!r}, 'a', libver='v110'); f.create_group('~2'); os._exit(9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    for again in (lambda: read(path), lambda: write("volta-h5", path, ("2", made(2)))):
        with pytest.raises(DataError, match="killed in the middle of an entry.*delete it"):
            again()
    path.unlink()
    write("volta-h5", path, ("1", made(1)))
    with h5py.File(path, "a") as file:
        file.create_group("~2")
    assert open_regions(str(path), folder=tmp_path).entries.names == ["1"]
    write("volta-h5", path, ("2", made(2)))
    with h5py.File(path) as file:
        assert sorted(file) == ["1", "2"]
