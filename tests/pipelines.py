"""Two tiny models that find coloured rectangles on white, and pictures of rectangles whose boxes are known."""

from __future__ import annotations

import io
from pathlib import Path

import onnx
from onnx import TensorProto, helper
from PIL import Image, ImageDraw

from builder.pipeline import export
from builder.request import ExportRequest
from tests.tiny_graphs import colour_spec, save_colour_graph
from tritonkit.images.crops import CropSettings, PixelBox
from tritonkit.images.preprocess import Preprocess
from tritonkit.spec import METADATA_KEY, Architecture, ModelSpec, Normalize, TensorSpec, image_input

SIZE = (320, 240)
CROP = CropSettings(margin=0)
COLOURS = {"red": (250, 20, 20), "green": (20, 250, 20), "blue": (20, 20, 250)}
MAX_BATCH = 8


def save_masks_model(path: Path, name: str = "masks") -> Path:
    """Save a segmenter: every pixel with a dark channel is `thing`."""
    preprocess = Preprocess(height=SIZE[1], width=SIZE[0], fit="squash", interpolation="nearest")
    spec = ModelSpec(
        name=name,
        task="segmentation",
        labels=("ground", "thing"),
        architecture=Architecture(name="test_resnet"),
        input=image_input(preprocess),
        outputs=(TensorSpec(name="mask", dtype="UINT8", shape=(SIZE[1], SIZE[0])),),
        preprocess=preprocess,
        normalize=Normalize(mean=(0, 0, 0), std=(1, 1, 1)),
    )
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMin", ["pixels", "axes"], ["darkest"], keepdims=0),
            helper.make_node("Less", ["darkest", "limit"], ["is_thing"]),
            helper.make_node("Cast", ["is_thing"], ["mask"], to=TensorProto.UINT8),
        ],
        name,
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", SIZE[1], SIZE[0], 3])],
        [helper.make_tensor_value_info("mask", TensorProto.UINT8, ["n", SIZE[1], SIZE[0]])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [1], [3]),
            helper.make_tensor("limit", TensorProto.FLOAT, [], [100.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.save(model, path)
    return path


def save_kinds_model(path: Path, name: str = "kinds", crop: CropSettings | None = CROP, scale: int = 40) -> Path:
    """Save a classifier: the colour with the largest mean. scale: of the means, for another model."""
    spec = colour_spec(name).model_copy(update={"crop": crop})
    nodes = (
        helper.make_node("Cast", ["scale"], ["divisor"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["means", "divisor"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    )
    return save_colour_graph(path, spec, *nodes, scale=[scale])


def publish_members(folder: Path) -> Path:
    """Publish both models; return the repository."""
    repository = folder / "repository"
    for path in (save_masks_model(folder / "masks.onnx"), save_kinds_model(folder / "kinds.onnx")):
        export(ExportRequest(source=path, repository=repository, max_batch=MAX_BATCH, encoded=False))
    return repository


def grid(count: int) -> list[tuple[PixelBox, str]]:
    """Return the boxes and colours of up to 60 rectangles, in the order of an answer."""
    names = list(COLOURS)
    places = [(32 * (number % 10) + 6, 40 * (number // 10) + 8) for number in range(count)]
    return [((x, y, x + 20, y + 24), names[number % 3]) for number, (x, y) in enumerate(places)]


def picture(count: int, file_format: str = "PNG") -> bytes:
    """Draw rectangles on white."""
    image = Image.new("RGB", SIZE, (255, 255, 255))
    for (left, top, right, bottom), name in grid(count):
        ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill=COLOURS[name])
    file = io.BytesIO()
    image.save(file, file_format)
    return file.getvalue()


def write_config(folder: Path, **further: object) -> Path:
    """Write pictures and the YAML of a pipeline."""
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    for count in (0, 3, 60):
        (pictures / f"{count}.png").write_bytes(picture(count))
    values = {"name": "people", "segmenter": "masks", "classifier": "kinds", "pictures": pictures, **further}
    path = folder / "people.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
    return path
