"""From a configuration to a data set of images, or of what stands in arrays."""

import struct

import numpy as np
import pytest
from PIL import Image
from support.datasets import TSV, load

from jaxdistill.errors import DataError


def test_digits_are_split_by_class():
    data = load(source="digits", validation_fraction=0.2)
    assert data.modality == "image"
    assert data.labels == tuple("0123456789")
    assert data.train.inputs.images.shape == (1438, 8, 8, 1)
    assert data.train.inputs.images.max() == data.validation.inputs.images.max() == 1.0
    shares = np.bincount(data.validation.labels) / np.bincount(data.train.labels)
    assert shares.min() > 0.23
    assert shares.max() < 0.27


def test_a_folder_of_images(tmp_path):
    for part, count in (("train", 6), ("dev", 2)):
        for label in ("cat", "dog"):
            (tmp_path / part / label).mkdir(parents=True)
            for index in range(count):
                value = 200 if label == "cat" else 100
                Image.new("RGB", (6, 6), (value + index, 0, 0)).save(
                    tmp_path / part / label / f"{index}.{'png' if index % 2 else 'jpg'}"
                )
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    data = load(train=str(tmp_path / "train"), validation=str(tmp_path / "dev"), image_size=4)
    assert data.labels == ("cat", "dog")
    assert data.train.inputs.images.shape == (12, 4, 4, 3)
    bright = data.train.inputs.images[..., 0].mean((1, 2)) > 0.6
    np.testing.assert_array_equal(bright, data.train.labels == 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"got no images in .*empty, expected empty/<label>"):
        load(train=str(tmp_path / "empty"))
    with pytest.raises(DataError, match="expected a folder of folders of images"):
        load(train=str(tmp_path / "train" / "cat" / "0.jpg"), format="images")


def test_arrays_of_images_and_of_features(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (30, 5, 5), np.uint8), np.arange(30) % 3
    np.savez(
        tmp_path / "i.npz", x_train=images, y_train=labels, x_test=images[:6], y_test=labels[:6]
    )
    data = load(train=str(tmp_path / "i.npz"))
    assert data.test is not None
    assert (len(data.train), len(data.validation), len(data.test)) == (24, 6, 6)
    np.testing.assert_allclose(data.test.inputs.images[..., 0], images[:6] / 255, rtol=1e-6)
    assert data.notes["test.seen"] + data.notes["validation.seen"] <= 6
    np.savez(tmp_path / "f.npz", x=rng.random((30, 7)), y=labels)
    data = load(train=str(tmp_path / "f.npz"))
    assert data.modality == "features"
    assert data.train.inputs.arrays["features"].shape == (24, 7)


def test_a_saved_data_set_with_names_and_images(tmp_path):
    import datasets

    pictures = [Image.new("L", (4, 4), value) for value in range(0, 200, 20)]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["light", "dark"])}
    )
    saved = datasets.Dataset.from_dict(
        {"image": pictures, "label": [1] * 5 + [0] * 5}, features=features
    )
    saved.save_to_disk(str(tmp_path / "saved"))
    data = load(train=str(tmp_path / "saved"), validation=str(tmp_path / "saved"))
    assert data.labels == ("light", "dark")
    np.testing.assert_allclose(
        data.train.inputs.images[:, 0, 0, 0], np.arange(0, 200, 20) / 255, rtol=1e-6
    )
    turned = load(
        train=str(tmp_path / "saved"),
        validation=str(tmp_path / "saved"),
        labels=["dark", "light"],
        num_labels=2,
    )
    assert turned.train.labels.tolist() == [0] * 5 + [1] * 5
    (tmp_path / "saved" / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match="not a saved data set"):
        load(train=str(tmp_path / "saved"))


def test_a_damaged_saved_data_set_is_refused(tmp_path):
    import datasets

    texts = datasets.Dataset.from_dict({"text": ["good", "bad", "fine"], "label": [1, 0, 1]})
    texts.save_to_disk(str(tmp_path / "saved"))
    (file,) = (tmp_path / "saved").glob("*.arrow")
    offsets, beyond = struct.pack("<4i", 0, 4, 7, 11), struct.pack("<4i", 0, 4, 2**30, 11)
    assert file.read_bytes().count(offsets) == 1
    file.write_bytes(file.read_bytes().replace(offsets, beyond))
    with pytest.raises(DataError, match=r"saved: a damaged Arrow file: .*out of bounds"):
        load(train=str(tmp_path / "saved"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", 8),
        ("image_mean", [0.5]),
        ("image_std", [2.0]),
        ("image_max", 9),
        ("shift", 1),
    ],
)
def test_options_of_images_are_refused_where_there_are_none(write, tokenizer_folder, key, value):
    with pytest.raises(DataError, match=rf"data\.{key}: got .* 'sentence' .* read as text; drop"):
        load(tokenizer_folder, train=write("a.tsv", TSV), **{key: value})


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_images_in_the_columns_of_files(tmp_path, kind):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 65536, (20, 6, 5), np.uint16)
    pixels[:, 0, 0] = 65535
    files = []
    for index, image in enumerate(pixels):
        files.append(tmp_path / "pictures" / f"{index}.png")
        files[-1].parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(files[-1])
    if kind == "csv":
        lines = [f"pictures/{i}.png,{i % 2}" for i in range(20)]
        (tmp_path / "a.csv").write_text("\n".join(["image_path,label", *lines]) + "\n")
    else:
        import pyarrow
        import pyarrow.parquet

        cells = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
        table = pyarrow.table({"image": cells, "label": [i % 2 for i in range(20)]})
        pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    train = str(tmp_path / f"a.{kind}")
    data = load(train=train, validation=train, image_mean=(0.5,), image_std=(0.25,))
    expected = (pixels / 65535 - 0.5) / 0.25
    np.testing.assert_allclose(data.validation.inputs.images[..., 0], expected, atol=1e-5)
    assert data.train.inputs.preprocessing.mean == (0.5,)
    assert "40 of 40 images" in data.remarks[0].message
    np.testing.assert_allclose(data.train.inputs.fill, [-2.0])
