"""Folders of images as they lie on disks: read, left out with a count, or refused by name."""

import io

import pytest
from PIL import Image

from jaxdistill.data.reading.image_folder import read_image_folder
from jaxdistill.errors import DataError


@pytest.fixture
def folder(tmp_path):
    """Two classes of two images each."""
    for label in ("cat", "dog"):
        for name in ("0.png", "1.JPG"):
            write(tmp_path / label / name)
    return tmp_path


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.new("L", (2, 2)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())


def read(folder, part="train"):
    table = read_image_folder(folder, part)
    told = "; ".join(remark.message for remark in table.remarks)
    pairs = zip(table.columns["image"], table.columns["label"], strict=True)
    return [(path.relative_to(folder).as_posix(), label) for path, label in pairs], told


def test_what_is_whole_needs_no_word(folder):
    found, told = read(folder)
    assert found == [
        (f"{label}/{n}", label) for label in ("cat", "dog") for n in ("0.png", "1.JPG")
    ]
    assert told == ""


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (".ipynb_checkpoints/0-checkpoint.png", "1 in the hidden folder .ipynb_checkpoints"),
        ("cat/.ipynb_checkpoints/0-checkpoint.png", "1 in the hidden folder .ipynb_checkpoints"),
        ("@eaDir/x/0.png", "1 in the hidden folder @eaDir"),
        ("cat/@eaDir/0.png/SYNOPHOTO_THUMB.jpg", "1 in the hidden folder @eaDir"),
        ("__MACOSX/cat/._0.png", "1 in the hidden folder __MACOSX"),
        ("cat/._0.png", "1 hidden"),
        ("cat/Thumbs.db", "1 hidden"),
        ("cat/a.heic", "1 with the ending .heic"),
        ("cat/a", "1 with the ending (none)"),
        ("labels.csv", "1 beside the folders of the classes"),
    ],
)
def test_what_is_left_out_is_counted(folder, path, message):
    whole, _ = read(folder)
    write(folder / path)
    found, told = read(folder)
    assert found == whole
    assert f"1 files of {folder} are not read: {message}" in told


@pytest.mark.parametrize(
    "name", ["a.tif", "a.TIFF", "a.gif", "a.jfif", "a.avif", "a.pgm", "a.webp"]
)
def test_other_endings_of_images_are_read(folder, name):
    write(folder / "eel" / name)
    found, told = read(folder)
    assert found[-1] == (f"eel/{name}", "eel")
    assert told == ""


def test_folders_in_classes_are_read(folder):
    write(folder / "cat" / "2019" / "may" / "3.png")
    (folder / "cat" / "circle").symlink_to(folder / "cat", target_is_directory=True)
    found, _ = read(folder)
    assert ("cat/2019/may/3.png", "cat") in found
    assert len(found) == 5


def test_a_class_without_images_is_refused(folder):
    (folder / "emu").mkdir()
    with pytest.raises(DataError, match=r"the class 'emu' .* has no images \(it holds no files\)"):
        read(folder)
    # In validation it says nothing about what is learned.
    found, told = read(folder, "validation")
    assert len(found) == 4
    assert "1 classes of" in told
    assert "emu" in told
    (folder / "emu" / "a.heic").write_bytes(b"")
    for part in ("train", "validation"):
        with pytest.raises(DataError, match=r"'emu' .*\(it holds 1 \.heic\)"):
            read(folder, part)


def test_splits_are_no_classes(tmp_path):
    for part in ("train", "val"):
        write(tmp_path / part / "cat" / "0.png")
    with pytest.raises(DataError, match=rf"the splits .*data\.train={tmp_path}/train"):
        read(tmp_path)
    found, _ = read(tmp_path / "train")
    assert found == [("cat/0.png", "cat")]


def test_nothing_to_read(tmp_path):
    with pytest.raises(DataError, match="expected a folder of folders"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match="got no images in folders of"):
        read(tmp_path)
    write(tmp_path / "0.png")
    with pytest.raises(DataError, match="1 images lie beside"):
        read(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,label\n0.png,1\n")
    with pytest.raises(DataError, match=r"data\.train=.*metadata\.csv and data\.image"):
        read(tmp_path)
