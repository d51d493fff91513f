"""Images of a run: read as its folders say, and exported so that transformers sees the same."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdistill.config.load import check
from jaxdistill.data.dataset import Dataset, image_processor
from jaxdistill.data.inputs.images import Images
from jaxdistill.data.reading.preprocessing import Preprocessing, read_preprocessing
from jaxdistill.data.split import make_split
from jaxdistill.distill import models as build
from jaxdistill.distill import stages
from jaxdistill.distill.preprocessing import channels_of, preprocessing_of
from jaxdistill.distill.workspace import Workspace
from jaxdistill.doctor import checks_images
from jaxdistill.doctor.findings import Examined
from jaxdistill.errors import ConfigError, DataError
from jaxdistill.models.family import config_from
from jaxdistill.models.registry import Model, build_model, family_named, load_model, save_model

VIT = {
    "family": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 4,
    "num_channels": 3,
}
HALF = Preprocessing(size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
STORED = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 16, "width": 16},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def folder_of(path: Path, processor=STORED) -> str:
    """A folder without weights: what is said of images is known before they are read."""
    path.mkdir()
    config = VIT | {"model_type": "vit", "architectures": ["ViTForImageClassification"]}
    (path / "config.json").write_text(json.dumps(config))
    if processor is not None:
        (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return str(path)


def config_of(teacher, student=None, *, data=None, **sections):
    values = {
        "data": {"train": "nowhere", **(data or {})},
        "teacher": {"model": teacher},
        "student": {"model": student or VIT},
        "finetune": {"epochs": 1, "batch_size": 8},
        "train": {"epochs": 1, "batch_size": 8},
    }
    return check(values | sections)


SPLIT = make_split(
    np.zeros(1), Images(np.zeros((1, 4, 6, 1), np.float32), Preprocessing(mean=(0.1,)))
)
STUB = Dataset(
    train=SPLIT,
    validation=SPLIT,
    test=None,
    modality="image",
    labels=None,
    num_labels=2,
    fingerprint="",
    notes={},
)


def write_images(folder: Path, count: int, *, size=(20, 24), seed=0) -> str:
    """Photographs of a light on the left or on the right, in colour, with a third kind for grey."""
    random = np.random.default_rng(seed)
    height, width = size
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for index in range(count // 2):
            pixels = random.integers(0, 120, (height, width, 3))
            pixels[:, : width // 2] += 90 * (label == 0)
            pixels[:, width // 2 :] += 90 * (label == 1)
            image = Image.fromarray(pixels.astype(np.uint8))
            image = image.convert("L") if index % 4 == 0 else image
            image.save(folder / name / f"{index}.png")
    return str(folder)


def test_the_teachers_processor_goes_first(tmp_path):
    teacher = folder_of(tmp_path / "teacher")
    assert preprocessing_of(config_of(teacher)) == (HALF, ())
    assert preprocessing_of(config_of(VIT, teacher)) == (HALF, ())
    assert preprocessing_of(config_of(VIT)) == (None, ())
    silent = folder_of(tmp_path / "silent", None)
    found, remarks = preprocessing_of(config_of(silent))
    assert found is None
    assert "has no image processor (preprocessor_config.json)" in remarks[0].message
    told = {"data": {"image_mean": [0.5], "image_std": [0.5]}}
    assert preprocessing_of(config_of(silent, **told)) == (None, ())


def test_options_against_the_folder(tmp_path):
    teacher = folder_of(tmp_path / "teacher")
    data = {"image_mean": [0.1], "image_std": [0.5]}
    _, remarks = preprocessing_of(config_of(teacher, data=data))
    assert "data.image_mean=0.1 instead of 0.5 of the" in remarks[0].message
    with pytest.raises(ConfigError, match=r"data\.image_mean=.*taken as it is"):
        preprocessing_of(config_of(teacher, data=data, finetune=None))
    # A network without a fixed size may well be asked at another one.
    small = preprocessing_of(config_of(teacher, data={"image_size": 8}, finetune=None))
    assert "data.image_size=[8, 8] instead of [16, 16]" in small[1][0].message
    agreed = {"image_size": 16, "image_mean": [0.5], "image_std": [0.5, 0.5, 0.5]}
    found = preprocessing_of(config_of(teacher, data=agreed, finetune=None))
    assert found == (HALF, ())


def test_two_folders_that_differ(tmp_path):
    teacher = folder_of(tmp_path / "teacher")
    same = folder_of(tmp_path / "same")
    assert preprocessing_of(config_of(teacher, same)) == (HALF, ())
    other = folder_of(tmp_path / "other", STORED | {"image_mean": [0.4, 0.5, 0.6]})
    message = r"differ \(mean 0\.5 against \[0\.4, 0\.5, 0\.6\]\).*data\.image_mean=\[0\.5,"
    with pytest.raises(ConfigError, match=message):
        preprocessing_of(config_of(teacher, other))
    chosen = {"image_mean": [0.5], "image_std": [0.5]}
    found, remarks = preprocessing_of(config_of(teacher, other, data=chosen))
    assert found == HALF
    assert "the student was trained on other images" in remarks[0].message
    scaled = folder_of(tmp_path / "scaled", STORED | {"do_rescale": False})
    with pytest.raises(ConfigError, match="give both the same rescale_factor"):
        preprocessing_of(config_of(teacher, scaled, data=chosen))
    filtered = folder_of(tmp_path / "filtered", STORED | {"resample": 3})
    found, remarks = preprocessing_of(config_of(teacher, filtered))
    assert found == HALF
    assert "resample 2 against 3" in remarks[0].message


def test_what_a_folder_asks_for_in_vain_is_said_first(tmp_path):
    teacher = folder_of(tmp_path / "teacher", STORED | {"do_pad": True})
    with pytest.raises(DataError, match="do_pad"):
        preprocessing_of(config_of(teacher))


def test_channels_of_the_models(tmp_path):
    teacher = folder_of(tmp_path / "teacher")
    resnet = {"family": "resnet"}
    assert channels_of(config_of(teacher, resnet)) == 3
    assert channels_of(config_of(resnet, resnet)) is None
    assert channels_of(config_of(resnet, {"family": "cnn", "num_channels": 1})) == 1
    assert channels_of(config_of({"family": "mlp"}, resnet)) is None
    with pytest.raises(ConfigError, match=r"num_channels 1, expected 3"):
        channels_of(config_of(teacher, VIT | {"num_channels": 1}))


def test_a_run_reads_as_its_folder_says(tmp_path):
    """Grey and coloured files of two sizes, all as transformers makes them."""
    from transformers import AutoImageProcessor

    teacher = folder_of(tmp_path / "teacher", STORED | {"resample": 3})
    train = write_images(tmp_path / "train", 8)
    validation = write_images(tmp_path / "validation", 8, size=(16, 31), seed=1)
    config = config_of(teacher, data={"train": train, "validation": validation})
    dataset = build.load_data(config, tmp_path / "cache")
    process = AutoImageProcessor.from_pretrained(teacher)
    for folder, split in ((train, dataset.train), (validation, dataset.validation)):
        files = sorted(Path(folder).glob("*/*.png"))
        found = [Image.open(file).convert("RGB") for file in files]
        theirs = process(images=found, return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(split.inputs.images.transpose(0, 3, 1, 2), theirs, atol=1e-5)
    # A mapping's channels count, too: files that are all grey become three.
    for file in Path(train).glob("*/*.png"):
        Image.open(file).convert("L").save(file)
    data = {"train": train, "validation": train, "image_mean": [0.5]}
    dataset = build.load_data(config_of(VIT, data=data), tmp_path / "cache")
    assert dataset.train.inputs.images.shape[3] == 3
    told = build.load_data(
        config_of(teacher, data=data | {"image_mean": [0.4]}), tmp_path / "cache"
    )
    assert "data.image_mean=0.4 instead of 0.5" in told.remarks[0].message


def test_a_saved_model_says_what_it_was_trained_on(tmp_path):
    """In place of what its source says, in either of the two files."""
    source = tmp_path / "source"
    save_model(source, build_model({"family": "mlp", "hidden_sizes": []}, num_labels=2))
    (source / "processor_config.json").write_text(json.dumps({"image_processor": STORED}))
    model = load_model(source)
    save_model(tmp_path / "copy", model)
    assert read_preprocessing(tmp_path / "copy", "vit") == HALF
    workspace = Workspace(config_of(VIT), tmp_path / "work", False)
    workspace._dataset = STUB
    stages._save(tmp_path / "own", model, workspace)
    assert read_preprocessing(tmp_path / "own", "vit") == Preprocessing(size=(4, 6), mean=(0.1,))


def test_models_that_read_other_images_are_found(tmp_path):
    data = {"train": write_images(tmp_path / "train", 16, size=(16, 16))}
    config = config_of(VIT, data=data)
    dataset = build.load_data(config, tmp_path / "cache")
    assert dataset.train.inputs.images.shape[1:] == (16, 16, 3)

    def findings(**fields):
        spec = {name: value for name, value in VIT.items() if name != "family"}
        known = config_from(family_named("vit"), spec | fields, {})
        model = Model(lambda *_: None, {}, config=known, family="vit")  # pyright: ignore
        examined = Examined(config, dataset, model, None)
        return [(found.level, found.message) for found in checks_images.shapes(examined)]

    assert findings() == [("ok", "models read 16 x 16 pixels of 3 channels")]
    ((level, message),) = findings(image_size=8)
    assert level == "fatal"
    assert "reads 8 x 8 pixels" in message
    assert "data.image_size=8" in message
    ((level, message),) = findings(num_channels=1)
    assert level == "fatal"
    assert "reads 1 channels, the images have 3" in message


def test_the_processor_of_models_from_scratch(tmp_path):
    """What is exported makes of the files what the run read, grey or coloured."""
    from transformers import AutoImageProcessor

    write_images(tmp_path / "train", 8)
    options = {"image_size": (20, 16), "image_mean": [0.4, 0.3, 0.2], "image_std": [0.25]}
    for grey in (False, True):
        files = sorted((tmp_path / "train").glob("*/*.png"))
        if grey:
            options["image_mean"] = [0.4]
            for file in files:
                Image.open(file).convert("L").save(file)
        data = {"train": str(tmp_path / "train"), "validation": str(tmp_path / "train"), **options}
        spec = {"family": "resnet"}
        dataset = build.load_data(config_of(spec, spec, data=data), tmp_path / "cache")
        processor = image_processor(dataset)
        assert processor is not None
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
        theirs = AutoImageProcessor.from_pretrained(tmp_path)(
            images=[Image.open(f).convert("L" if grey else "RGB") for f in files],
            return_tensors="np",
        )["pixel_values"]
        ours = dataset.validation.inputs.images.transpose(0, 3, 1, 2)
        assert ours.shape[1:] == (1 if grey else 3, 20, 16)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
def test_an_export_does_as_well_in_transformers(tmp_path):
    """The accuracy and the logits of a run are those of `transformers.pipeline` on its export."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    teacher = str(tmp_path / "teacher")
    save_model(teacher, build_model(VIT, labels=["cat", "dog"]), processor=STORED)
    data = {
        "train": write_images(tmp_path / "train", 64),
        "validation": write_images(tmp_path / "validation", 24, seed=1),
    }
    training = {"epochs": 4, "batch_size": 16, "learning_rate": 3e-3}
    config = config_of(
        teacher,
        VIT,
        data=data,
        finetune=training,
        train=training,
        seeds=[0],
        telemetry={"progress": "none"},
        parallel={"data": 1, "compilation_cache": False},
    )
    stages.run(config, tmp_path / "run", until="export")
    export = tmp_path / "run" / "export" / "student"
    stored = json.loads((export / "preprocessor_config.json").read_text())
    assert stored["image_mean"] == [0.5] * 3
    classify = transformers.pipeline("image-classification", model=str(export), device="cpu")
    files = sorted((tmp_path / "validation").glob("*/*.png"))
    found = [classify(str(file)) for file in files]
    right = [
        answer[0]["label"] == file.parent.name for answer, file in zip(found, files, strict=True)
    ]
    measured = json.loads((tmp_path / "run" / "result.json").read_text())["student_distilled"]
    assert np.mean(right) == pytest.approx(measured["values"][0])
    assert np.mean(right) > 0.7
    with np.load(tmp_path / "run" / "evaluate" / "predictions.npz") as predictions:
        logits = predictions["distilled_logits"][0]
    theirs = [
        next(score["score"] for score in answer if score["label"] == "cat") for answer in found
    ]
    ours = torch.softmax(torch.tensor(np.asarray(logits, np.float32)), -1)[:, 0].numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
